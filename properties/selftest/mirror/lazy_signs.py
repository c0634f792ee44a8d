"""Whether copies of lazy values from a device to the CPU keep their signs: DEVICE."""

import sys
from typing import Callable, Dict

import torch

COPIES: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cpu()": lambda x: x.cpu(),
    "to('cpu')": lambda x: x.to("cpu"),
    "empty.copy_": lambda x: torch.empty(tuple(x.shape), dtype=x.dtype).copy_(x),
    "resolved, then cpu()": lambda x: x.resolve_conj().resolve_neg().cpu(),
    "tolist()": lambda x: torch.tensor(x.tolist(), dtype=x.dtype),
}


def main(device: str) -> None:
    """Print each source and copy, and whether the copy is right."""
    print(torch.__version__, device)
    z = torch.complex(torch.arange(1.0, 7), torch.arange(11.0, 17))
    sources: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "z.conj().imag": lambda z: z.conj().imag,
        "z.conj()": lambda z: z.conj(),
        "z.conj()[::2]": lambda z: z.conj()[::2],
        "z.reshape(2, 3).t().conj()": lambda z: z.reshape(2, 3).t().conj(),
        "z.reshape(2, 3)[:, :2].conj()": lambda z: z.reshape(2, 3)[:, :2].conj(),
    }
    for name, make in sources.items():
        wanted = make(z).resolve_conj().resolve_neg()
        for how, copy in COPIES.items():
            found = copy(make(z.to(device)))
            right = torch.equal(found, wanted)
            print(f"{name:32}{how:24}{'right' if right else f'WRONG: {found.tolist()}'}")


if __name__ == "__main__":
    main(sys.argv[1])
