# What continuous integration runs is what you run. PYTHON names the interpreter, 3.11 or newer.

ARM_PACKAGES := gcc libc6-dev gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
RISCV_PACKAGES := gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf qemu-system-misc
TEST_PACKAGES := $(ARM_PACKAGES) $(RISCV_PACKAGES) clang cmake

# Matrices here are small: threads of the linear algebra library cost more than they give.
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test test-training lint format types layers docs bench bench-prices bench-methods build clean

demo: .venv/.stamp
	.ci/debian $(ARM_PACKAGES)
	.venv/bin/binpoint demo

test: .venv-dev/.stamp
	.ci/debian $(TEST_PACKAGES)
	.venv-dev/bin/python -m pytest -q -n auto --dist worksteal --require-tools $(TESTS)

test-training: .venv-training/.stamp
	.ci/debian gcc libc6-dev g++
	.venv-training/bin/python -m pytest -q --require-tools -W ignore -o "norecursedirs=.* build" tests/training

lint: .venv-dev/.stamp
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/ruff check .

format: .venv-dev/.stamp
	.venv-dev/bin/ruff format .
	.venv-dev/bin/ruff check --fix .

types: .venv-dev/.stamp
	.venv-dev/bin/basedpyright --pythonpath .venv-dev/bin/python

layers: .venv-dev/.stamp
	.venv-dev/bin/lint-imports

docs: .venv-dev/.stamp
	.venv-dev/bin/python -m sphinx -q -W -b html docs build/docs

bench: .venv-dev/.stamp
	.ci/debian $(TEST_PACKAGES)
	.venv-dev/bin/python -m benchmarks
	.venv-dev/bin/python -m benchmarks.performance
	.venv-dev/bin/python -m benchmarks.narrow

bench-prices: .venv-dev/.stamp
	.ci/debian $(ARM_PACKAGES) $(RISCV_PACKAGES)
	.venv-dev/bin/python -m benchmarks.prices
	.venv-dev/bin/python -m benchmarks.kernel_prices

bench-methods: .venv-dev/.stamp
	.venv-dev/bin/python -m benchmarks.methods --write

build: .venv-dev/.stamp
	.venv-dev/bin/python -m pip wheel -q --no-deps -w build/wheel .

clean:
	rm -rf .venv .venv-dev .venv-training build

.venv/.stamp: pyproject.toml constraints.txt
	.ci/venv .venv

.venv-dev/.stamp: pyproject.toml constraints.txt
	.ci/venv .venv-dev dev

.venv-training/.stamp: pyproject.toml constraints.txt
	.ci/venv .venv-training training,hls,test torch
