"""What is known of a broken law: where it was broken, and by which example."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch


@dataclass
class Case:
    """One example of a law.

    test: "test_file.py::test_name"; ident and sentence: the law; device and dtype: of the
    test's id (dtype None where the law has none); values: the drawn arguments and other
    parameters by name; drawn: what ``data.draw`` gave, in order; seen: what was raised.
    """

    test: str
    ident: str = ""
    sentence: str = ""
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    values: Dict[str, Any] = field(default_factory=dict)
    drawn: List[Any] = field(default_factory=list)
    seen: Optional[BaseException] = None

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def draws(self, *defaults: Any) -> Tuple[Any, ...]:
        """What was drawn, filled up with defaults where the law broke before the last draw."""
        return (*self.drawn[: len(defaults)], *defaults[len(self.drawn) :])

    @property
    def dtype_name(self) -> str:
        """Such as "float32"."""
        return str(self.dtype).rpartition(".")[2]

    def headline(self) -> List[str]:
        """The comments that a program begins with."""
        where = f"device {self.device}, dtype {self.dtype_name}; torch {torch.__version__}"
        return [self.sentence or self.test, where]
