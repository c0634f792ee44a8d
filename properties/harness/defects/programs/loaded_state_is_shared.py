"""load_state_dict keeps the tensors it is given: two optimizers share one state."""

import sys

import torch

first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
one, two = torch.optim.Adam([first]), torch.optim.Adam([second])
first.grad = torch.ones(2)
one.step()
two.load_state_dict(one.state_dict())
for name, value in one.state[first].items():
    if torch.is_tensor(value) and value.data_ptr() == two.state[second][name].data_ptr():
        sys.exit(f"two optimizers have one tensor for {name}")
