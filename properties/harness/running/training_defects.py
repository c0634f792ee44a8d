"""Known defects of what people train with: memory, optimizer state, tools, wrappers, processes."""

from typing import Sequence

from frostproof.properties.harness.running.defect import Defect

NOT_REPORTED = "no upstream report was found"
FUSED = "cpu-float32-(SGD|Adam|AdamW|Adagrad)"
MEMORY = "test_parameter_memory.py::test_fused_step_stays_in_its_elements"

TRAINING: Sequence[Defect] = (
    Defect(
        test=MEMORY,
        sentence="a fused step over a slice of columns writes the columns beside it instead",
        issue=NOT_REPORTED,
        first=(2, 4),
        cells=f"{FUSED}-gaps",
    ),
    Defect(
        test=MEMORY,
        sentence="a fused step over an expanded view writes past the end of its storage",
        issue=NOT_REPORTED,
        first=(2, 4),
        cells=f"{FUSED}-overlapping",
    ),
    Defect(
        test=MEMORY,
        sentence="a fused step takes the wrong elements of a gradient of other strides",
        issue=NOT_REPORTED,
        first=(2, 4),
        cells=f"{FUSED}-gradients",
    ),
    Defect(
        test="test_parameter_memory.py::test_step_takes_empty_parameters",
        sentence="Adafactor divides by the number of elements: an empty parameter ends its step",
        issue=NOT_REPORTED,
        first=(2, 5),
        cells=".*-Adafactor",
    ),
    Defect(
        test="test_parameter_memory.py::test_step_takes_empty_parameters",
        sentence="Adamax takes the largest of no numbers: an empty parameter ends its step",
        issue="measured on 1.8.1",
        last=(1, 12),
        cells=".*-Adamax",
    ),
    Defect(
        test="test_parameter_memory.py::test_fused_step_keeps_the_process_alive",
        sentence="a fused step over an expanded view corrupts memory, which can end the process",
        issue=NOT_REPORTED,
        first=(2, 4),
    ),
    Defect(
        test="test_parameter_memory.py::test_fused_step_bumps_the_version",
        sentence="a fused step leaves the version counter: an older graph goes unnoticed",
        issue=NOT_REPORTED,
        first=(2, 4),
        cells="cpu-.*",
    ),
)
