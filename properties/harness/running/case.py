"""What is known of a broken law: where it was broken, and by which example."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import torch


@dataclass
class Case:
    """One example of a law.

    test: "test_file.py::test_name"; ident and sentence: the law; device and dtype: of the
    test's id (dtype None where the law has none); values: the drawn arguments and other
    parameters by name; drawn: what ``data.draw`` gave, in order; draws_data: whether the law
    takes ``data``; machine: the state machine whose events are among the values; seen: what was
    raised.
    """

    test: str
    ident: str = ""
    sentence: str = ""
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    values: Dict[str, Any] = field(default_factory=dict)
    drawn: List[Any] = field(default_factory=list)
    draws_data: bool = False
    machine: Any = None
    seen: Optional[BaseException] = None

    @property
    def dtype_name(self) -> str:
        """Such as "float32"."""
        return str(self.dtype).rpartition(".")[2]

    def headline(self) -> List[str]:
        """The comments that a program begins with."""
        where = f"device {self.device}, dtype {self.dtype_name}; torch {torch.__version__}"
        return [self.sentence or self.test, where]
