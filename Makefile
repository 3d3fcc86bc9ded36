# Every target prepares what it needs; `make setup` is quick once it has run.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-mmdet3d test test-vehicle test-slow test-gpu test-mmdet3d check docs format demo clean

WITH_ENV := source scripts/env.sh &&
PYTEST := $(WITH_ENV) python -m pytest
PYTHON_STAMP := .venv/.packages-installed
ROS_STAMP := .ros/.messages-built
MMDET3D_STAMP := .venv/.mmdet3d-installed

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(PYTHON_STAMP) $(ROS_STAMP) ## Create .venv, install packages, build the ROS messages.
	@echo "Ready. In a shell: source scripts/env.sh"

setup-mmdet3d: setup $(MMDET3D_STAMP) ## Add mmdet3d LiDAR teachers (compiles mmcv, about 12 minutes).

test: setup ## Run the fast tests.
	@$(PYTEST) -n 2 -m "not slow and not gpu and not mmdet3d" $(PYTEST_ARGS)

test-vehicle: setup ## Run the fast tests of what goes on the vehicle, which need no training.
	@$(PYTEST) -n 2 -m "not slow and not gpu" @test/vehicle_tests.txt $(PYTEST_ARGS)

test-slow: setup ## Run the slow tests.
	@$(PYTEST) -n 2 -m "slow and not gpu" --timeout 1800 $(PYTEST_ARGS)

test-gpu: setup ## Run the tests that need a GPU.
	@$(PYTEST) -m gpu $(PYTEST_ARGS)

test-mmdet3d: setup-mmdet3d ## Run the tests that need mmdet3d.
	@$(PYTEST) -n 2 -m "mmdet3d and not slow and not gpu" $(PYTEST_ARGS)

check: $(PYTHON_STAMP) ## Lint, check format, types, spelling and the import contracts.
	@$(WITH_ENV) ruff check . && ruff format --check . && mypy && codespell && lint-imports

docs: $(PYTHON_STAMP) ## Build the documentation site into site/; a broken link fails.
	@$(WITH_ENV) NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet && echo "docs: site/index.html"

format: $(PYTHON_STAMP) ## Format the code and fix what can be fixed.
	@$(WITH_ENV) ruff check --fix . ; ruff format .

demo: setup ## A synthetic world, trained, distilled, replayed through ROS and scored.
	@$(WITH_ENV) python -m training demo $(DEMO_ARGS)

clean: ## Remove what was built and cached; .venv stays.
	@rm -rf .ros site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(PYTHON_STAMP): requirements/torch.txt requirements/vehicle.txt requirements/vehicle-dev.txt requirements/base.txt requirements/dev.txt requirements/ros.txt setup.py scripts/setup_python.sh
	@PYTHON=$(PYTHON) scripts/setup_python.sh
	@touch $@

$(MMDET3D_STAMP): $(PYTHON_STAMP) requirements/mmdet3d.txt scripts/setup_mmdet3d.sh
	@scripts/setup_mmdet3d.sh
	@touch $@

$(ROS_STAMP): $(PYTHON_STAMP) $(wildcard msg/*.msg launch/*.py scripts/d* config/*/*) CMakeLists.txt package.xml scripts/setup_ros.sh
	@scripts/setup_ros.sh
	@touch $@
