# Any gcc by its prefix, and the flags of the processor:
#
# cmake -B build -DCMAKE_TOOLCHAIN_FILE=cmake/gcc.cmake -DTINYSCENE_PREFIX=xtensa-esp32s3-elf- -DTINYSCENE_FLAGS=-mlongcalls
# cmake -B build -DCMAKE_TOOLCHAIN_FILE=cmake/gcc.cmake -DTINYSCENE_PREFIX=riscv64-unknown-elf- \
#     "-DTINYSCENE_FLAGS=-march=rv32imac;-mabi=ilp32"
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # a program would need a linker script

set(TINYSCENE_PREFIX "" CACHE STRING "What the names of the compiler's programs begin with")
set(TINYSCENE_FLAGS "" CACHE STRING "Flags of the processor, separated by semicolons")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES TINYSCENE_PREFIX TINYSCENE_FLAGS)
if(TINYSCENE_PREFIX STREQUAL "")
    message(FATAL_ERROR "TINYSCENE_PREFIX is empty: it must be the compiler's prefix, such as riscv64-unknown-elf-")
endif()
string(REGEX MATCH "^[a-z]+" CMAKE_SYSTEM_PROCESSOR "${TINYSCENE_PREFIX}")

# A part of the compiler: -DCMAKE_C_FLAGS=... replaces CMAKE_C_FLAGS_INIT.
set(CMAKE_C_COMPILER ${TINYSCENE_PREFIX}gcc ${TINYSCENE_FLAGS})
set(CMAKE_C_FLAGS_INIT "-ffunction-sections -fdata-sections")
