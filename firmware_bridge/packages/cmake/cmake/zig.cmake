# cmake -B build -DCMAKE_TOOLCHAIN_FILE=cmake/zig.cmake -DTINYSCENE_CPU=cortex-m4
#
# zig is a clang for every processor in one download, or from PyPI: pip install ziglang. Without TINYSCENE_CPU it
# builds for this machine.
find_program(ZIG zig)
if(ZIG)
    set(zig ${ZIG})
else()
    find_program(TINYSCENE_PYTHON NAMES python3 python REQUIRED)
    set(zig ${TINYSCENE_PYTHON} -m ziglang)
endif()
set(CMAKE_C_COMPILER ${zig} cc)
string(REPLACE ";" " " zig "${zig}")
set(CMAKE_C_ARCHIVE_CREATE "${zig} ar qc <TARGET> <OBJECTS>")
set(CMAKE_C_ARCHIVE_FINISH "${zig} ranlib <TARGET>")

set(TINYSCENE_CPU "" CACHE STRING "cortex-m4, cortex-m7, cortex-m33, cortex-m55, or empty for this machine")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES TINYSCENE_CPU TINYSCENE_PYTHON)
if(TINYSCENE_CPU STREQUAL "")
    set(cpu "")
elseif(TINYSCENE_CPU STREQUAL "cortex-m4")
    set(cpu cortex_m4+vfp4d16sp)
elseif(TINYSCENE_CPU STREQUAL "cortex-m7")
    set(cpu cortex_m7+fp_armv8d16)
elseif(TINYSCENE_CPU STREQUAL "cortex-m33")
    set(cpu cortex_m33+dsp+fp_armv8d16sp)
elseif(TINYSCENE_CPU STREQUAL "cortex-m55")
    set(cpu cortex_m55+mve_fp)
else()
    message(FATAL_ERROR "TINYSCENE_CPU is ${TINYSCENE_CPU}: it must be cortex-m4, cortex-m7, cortex-m33 or cortex-m55")
endif()

# Without the flag zig puts its checks of undefined behaviour into a build that is not optimised.
set(CMAKE_C_FLAGS_INIT "-fno-sanitize=undefined")
if(NOT cpu STREQUAL "")
    set(CMAKE_SYSTEM_NAME Generic)
    set(CMAKE_SYSTEM_PROCESSOR arm)
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # a program would need a linker script
    string(APPEND CMAKE_C_FLAGS_INIT " --target=thumb-freestanding-eabihf -mcpu=${cpu} -ffreestanding")
    string(APPEND CMAKE_C_FLAGS_INIT " -ffunction-sections -fdata-sections")
endif()
