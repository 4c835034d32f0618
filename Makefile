# The two commands a newcomer needs are `make demo` and `make test`; both set up what is missing first.
PY := .venv/bin/python

.PHONY: setup setup-dev demo test lint bench clean

setup:  ## .venv with what the device needs, and the apt packages that are missing
	@deploy/setup.sh run

setup-dev:
	@deploy/setup.sh dev

demo: setup  ## a real video, a real broker, a real subscriber; writes demo.mp4
	@$(PY) deploy/demo/demo.py

test: setup-dev  ## everything, with real parts: the device's part, then the trainer's, two at a time
ifeq ($(ARGS),)
	$(PY) -m pytest --ignore tests/calibration --ignore tests/trainer
	$(PY) -m pytest -n 2 --dist loadfile tests/calibration tests/trainer
else
	$(PY) -m pytest $(ARGS)
endif

lint: setup-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: setup  ## time per stage on the shipped clip
	$(PY) -m edgepose bench --source deploy/demo/one_by_one_person.mp4 --threads 2

clean:
	rm -rf .venv build dist *.egg-info demo.mp4 demo.jsonl
