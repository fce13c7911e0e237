# cmake -B build -DCMAKE_TOOLCHAIN_FILE=cmake/arm-none-eabi.cmake -DTINYSCENE_CPU=cortex-m4
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # a program would need a linker script

set(cpus cortex-m0plus cortex-m3 cortex-m4 cortex-m7 cortex-m23 cortex-m33 cortex-m55)
set(TINYSCENE_CPU cortex-m4 CACHE STRING "One of ${cpus}")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES TINYSCENE_CPU)
if(NOT TINYSCENE_CPU IN_LIST cpus)
    list(JOIN cpus ", " cpus)
    message(FATAL_ERROR "TINYSCENE_CPU is ${TINYSCENE_CPU}: it must be one of ${cpus}")
endif()

# tinyscene uses no floating point; -mfloat-abi must be the one that the rest of the firmware is built with.
set(float -mfloat-abi=hard)
if(TINYSCENE_CPU STREQUAL "cortex-m4")
    list(APPEND float -mfpu=fpv4-sp-d16)
elseif(TINYSCENE_CPU STREQUAL "cortex-m7")
    list(APPEND float -mfpu=fpv5-d16)
elseif(TINYSCENE_CPU STREQUAL "cortex-m33")
    list(APPEND float -mfpu=fpv5-sp-d16)
elseif(NOT TINYSCENE_CPU STREQUAL "cortex-m55") # whose vectors -mcpu implies
    set(float -mfloat-abi=soft)
endif()

# A part of the compiler: -DCMAKE_C_FLAGS=... replaces CMAKE_C_FLAGS_INIT.
set(CMAKE_C_COMPILER arm-none-eabi-gcc -mcpu=${TINYSCENE_CPU} -mthumb ${float})
set(CMAKE_C_FLAGS_INIT "-ffunction-sections -fdata-sections")
