#!/bin/sh
# The whole pipeline, small, on synthetic sounds made on the spot: what `make demo` runs.
set -eu
tinyscene() { printf '\n$ tinyscene %s\n' "$*"; "$BIN/tinyscene" "$@"; }
rm -rf demo
mkdir demo
export TINYSCENE_CACHE=demo/cache
tinyscene sample demo/sample
tinyscene prepare demo/sample
tinyscene budget micro
tinyscene teach small --data demo/sample --split 100 --out demo/teacher --set train.epochs=2 --set train.batch_size=32
tinyscene logits demo/teacher --data demo/sample --split 100 --out demo/logits.safetensors
tinyscene train micro --data demo/sample --split 100 --out demo/run --set train.epochs=12 --set train.batch_size=32 \
    --set distill.logits=demo/logits.safetensors --set distill.label_weight=0.5
tinyscene evaluate demo/run --data demo/sample
tinyscene prune demo/run --data demo/sample --to-macs 3e6 --out demo/pruned --set prune.steps=2 --set prune.epochs=1 \
    --set prune.final_epochs=2
tinyscene quantize demo/run --data demo/sample --out demo/bundle
tinyscene inspect demo/bundle
tinyscene evaluate demo/bundle --data demo/sample
tinyscene export demo/bundle --to tflite,onnx,onnx-int8
tinyscene verify demo/bundle
tinyscene firmware demo/bundle --out demo/firmware
tinyscene emulate demo/bundle --target cortex-m4,riscv32,host
tinyscene classify demo/bundle --runner native demo/sample/audio/park-synthetic-4-4-0-a.wav demo/sample/audio/tram-synthetic-5-5-0-s4.wav
printf '\nThe sounds were synthetic, so the accuracy above says nothing of real scenes: see README.md to train on those.\n'
printf '\nReal sounds, with the bundle that comes along:\n'
tinyscene classify sounds10 tinyscene/bundled/sounds/*.flac
