#!/bin/sh
# Generates the gRPC stubs of proto/ into the folder given, default libs/contracts.
set -eu
cd "$(dirname "$0")/.."
out=${1:-libs/contracts}
bin=$(pwd)/.venv/bin
mkdir -p "$out"
find "$out" -name '*_pb2*.py*' -delete
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc \
  --proto_path=proto --proto_path=third_party/proto \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  $(find proto -name '*.proto' | LC_ALL=C sort)
