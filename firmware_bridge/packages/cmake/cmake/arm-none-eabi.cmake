# cmake -B build -DCMAKE_TOOLCHAIN_FILE=cmake/arm-none-eabi.cmake -DTINYSCENE_CPU=cortex-m4
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # a program would need a linker script

set(TINYSCENE_CPU cortex-m4 CACHE STRING "cortex-m4, cortex-m7, cortex-m33 or cortex-m55")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES TINYSCENE_CPU)
if(TINYSCENE_CPU STREQUAL "cortex-m4")
    set(fpu -mfpu=fpv4-sp-d16)
elseif(TINYSCENE_CPU STREQUAL "cortex-m7")
    set(fpu -mfpu=fpv5-d16)
elseif(TINYSCENE_CPU STREQUAL "cortex-m33")
    set(fpu -mfpu=fpv5-sp-d16)
elseif(TINYSCENE_CPU STREQUAL "cortex-m55")
    set(fpu "") # and MVE, by -mcpu
else()
    message(FATAL_ERROR "TINYSCENE_CPU is ${TINYSCENE_CPU}: it must be cortex-m4, cortex-m7, cortex-m33 or cortex-m55")
endif()

# tinyscene uses no floating point; -mfloat-abi must be the one that the rest of the firmware is built with.
set(CMAKE_C_FLAGS_INIT "-mcpu=${TINYSCENE_CPU} -mthumb ${fpu} -mfloat-abi=hard -ffunction-sections -fdata-sections")
