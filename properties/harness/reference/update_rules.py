"""The optimizers' update rules, written from their published formulas, in float64.

Sources: the pseudo-code in the torch.optim documentation, and the papers it
cites. A rule is fed the gradients of the run under test, so what it judges is
the update alone. Documented defaults are written out here: a torch whose
defaults have changed must not be measured with its own. The same rules hold in
torch 1.8.1 and 2.13 (measured): classes and options came later, and see SINGLE_SCALARS and
SINGLE_RATES. Where an old torch is off its own rule, that is a row of the known defects.

Where a low precision says nothing about the rule: the second moment is about the
square of the gradient, and in float16 (1 - beta2) * g * g underflows for |g| < 0.008,
in float32 for |g| < 1e-21. There torch divides by eps alone and the rule by about |g|:
the difference is up to a whole step, lr * g / eps. Feed gradients above that, or zeros.
Rprop's product of two gradients underflows likewise (float32: both below 1e-22).
"""

import math
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

import torch

from frostproof.properties.harness.defects.known import version_tuple
from frostproof.strategies import OptimizerSpec

# Since this torch NAdam's product of momenta is a tensor of the default dtype, not a
# Python float: a float64 run is 1e-8 off the formula unless the rule's is rounded alike.
# Measured with 2.13 only; the version is from memory of torch's history.
SINGLE_SCALARS = (1, 12)


# Between these torches a foreach implementation kept its rate as a float32 tensor, since it
# made it of the tensors that count the steps: measured on 1.13.1, 2.0.1, not on 2.1.2.
SINGLE_RATES: Mapping[str, Tuple[Tuple[int, int], Tuple[int, int]]] = {"Adagrad": ((1, 12), (2, 0))}


def kept_scalar(value: float) -> float:
    """A scalar of an optimizer's state, rounded as the installed torch keeps it."""
    if version_tuple(str(torch.__version__)) < SINGLE_SCALARS:
        return value
    wide = torch.get_default_dtype() is torch.float64
    return float(torch.tensor(value, dtype=torch.float64 if wide else torch.float32))


class Rule:
    """The update of one parameter: keeps its state; ``options`` are the documented ones."""

    defaults: Dict[str, Any] = {}
    roughness = 0.0  # relative error of an update in torch itself, whatever the dtype

    def __init__(self, options: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
        self.options: Dict[str, Any] = {**self.defaults, **options}
        self.dtype = dtype  # of the run under test: some defaults go by it
        self.steps = 0
        self.cancelled = torch.ones(())  # how much decay and gradient amplify rounding, so far
        self.state: Dict[str, torch.Tensor] = {}
        first, last = SINGLE_RATES.get(type(self).__name__, ((999, 0), (0, 0)))
        if first <= version_tuple(str(torch.__version__)) <= last and options.get("foreach"):
            self.roughness = 1e-7
        self.mixed = math.inf  # the largest part of an update that is rough, where that is known

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["options"][name]
        except KeyError:
            raise AttributeError(name) from None

    def kept(self, name: str, like: torch.Tensor, value: float = 0.0) -> torch.Tensor:
        """A state tensor, made on first use."""
        if name not in self.state:
            self.state[name] = torch.zeros(like.shape, dtype=torch.float64) + value
        return self.state[name]

    def step(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The new value, float64, from the current value and gradient (both float64)."""
        self.steps += 1
        if self.options.get("maximize"):
            gradient = -gradient
        decoupled = self.options.get("decoupled_weight_decay", False)
        decay = self.options.get("weight_decay", 0.0)
        if decay and decoupled:
            value = value - self.lr * decay * value
        elif decay:
            size = gradient.abs() + decay * value.abs()
            gradient = gradient + decay * value
            # where the two all but cancel, their rounding is as large as what is left
            lost = size / gradient.abs().clamp(min=1e-300)
            self.cancelled = torch.max(lost, self.kept("cancelled", gradient, 1.0))
            self.state["cancelled"] = self.cancelled
        return self.update(value, gradient)

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The rule proper, after maximize and weight decay."""
        raise NotImplementedError


class SGD(Rule):
    defaults = {
        "lr": 0.001,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
    }

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        if self.momentum:
            if "velocity" in self.state:
                velocity = self.momentum * self.state["velocity"] + (1 - self.dampening) * gradient
            else:
                velocity = gradient + 0
            self.state["velocity"] = velocity
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        return value - self.lr * gradient


class Adam(Rule):
    defaults = {
        "lr": 0.001,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
    }

    def moments(self, gradient: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """First and second moment, not corrected for bias."""
        one, two = self.betas
        first = one * self.kept("first", gradient) + (1 - one) * gradient
        second = two * self.kept("second", gradient) + (1 - two) * gradient * gradient
        self.state["first"], self.state["second"] = first, second
        return first, second

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        one, two = self.betas
        first, second = self.moments(gradient)
        if self.amsgrad:
            second = torch.max(self.kept("largest", gradient), second)
            self.state["largest"] = second
        first = first / (1 - one**self.steps)
        spread = (second / (1 - two**self.steps)).sqrt() + self.eps
        return value - self.lr * first / spread


class SparseAdam(Adam):
    """Adam on the rows that have a gradient; eps is not corrected for bias."""

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        one, two = self.betas
        touched = (gradient != 0).any(-1, keepdim=True)
        old = self.kept("first", gradient), self.kept("second", gradient)
        first, second = self.moments(gradient)
        self.state["first"] = torch.where(touched, first, old[0])
        self.state["second"] = torch.where(touched, second, old[1])
        rate = self.lr * math.sqrt(1 - two**self.steps) / (1 - one**self.steps)
        return torch.where(touched, value - rate * first / (second.sqrt() + self.eps), value)


class AdamW(Adam):
    defaults = {**Adam.defaults, "weight_decay": 0.01, "decoupled_weight_decay": True}


class NAdam(Adam):
    defaults = {**Adam.defaults, "lr": 0.002, "momentum_decay": 0.004}

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        one, two = self.betas
        now = one * (1 - 0.5 * 0.96 ** (self.steps * self.momentum_decay))
        after = one * (1 - 0.5 * 0.96 ** ((self.steps + 1) * self.momentum_decay))
        # a product of two numbers of the kept precision, rounded to it again
        last = float(self.kept("product", torch.zeros(()), 1.0))
        product = kept_scalar(last * kept_scalar(now))
        self.state["product"] = torch.tensor(product, dtype=torch.float64)
        first, second = self.moments(gradient)
        ahead = after * first / (1 - product * after) + (1 - now) * gradient / (1 - product)
        spread = (second / (1 - two**self.steps)).sqrt() + self.eps
        return value - self.lr * ahead / spread


class RAdam(Adam):
    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        one, two = self.betas
        first, second = self.moments(gradient)
        first = first / (1 - one**self.steps)
        longest = 2 / (1 - two) - 1
        length = longest - 2 * self.steps * two**self.steps / (1 - two**self.steps)
        if length <= 5:
            return value - self.lr * first
        rectified = math.sqrt(
            (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        )
        adapted = math.sqrt(1 - two**self.steps) / (second.sqrt() + self.eps)
        return value - self.lr * first * rectified * adapted


class RMSprop(Rule):
    defaults = {
        "lr": 0.01,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
    }

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        keep = self.alpha
        square = keep * self.kept("square", gradient) + (1 - keep) * gradient * gradient
        self.state["square"] = square
        if self.centered:
            mean = keep * self.kept("mean", gradient) + (1 - keep) * gradient
            self.state["mean"] = mean
            square = square - mean * mean
        scaled = gradient / (square.sqrt() + self.eps)
        if self.momentum:
            scaled = self.momentum * self.kept("velocity", gradient) + scaled
            self.state["velocity"] = scaled
        return value - self.lr * scaled


class Adagrad(Rule):
    defaults = {
        "lr": 0.01,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
    }

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        rate = self.lr / (1 + (self.steps - 1) * self.lr_decay)
        total = self.kept("sum", gradient, self.initial_accumulator_value) + gradient * gradient
        self.state["sum"] = total
        return value - rate * gradient / (total.sqrt() + self.eps)


class Adadelta(Rule):
    defaults = {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        square = self.rho * self.kept("square", gradient) + (1 - self.rho) * gradient * gradient
        moved = self.kept("moved", gradient)
        change = (moved + self.eps).sqrt() / (square + self.eps).sqrt() * gradient
        self.state["square"] = square
        self.state["moved"] = self.rho * moved + (1 - self.rho) * change * change
        return value - self.lr * change


class Adamax(Rule):
    defaults = {"lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        one, two = self.betas
        first = one * self.kept("first", gradient) + (1 - one) * gradient
        largest = torch.max(two * self.kept("largest", gradient), gradient.abs() + self.eps)
        self.state["first"], self.state["largest"] = first, largest
        return value - self.lr / (1 - one**self.steps) * first / largest


class ASGD(Rule):
    """The parameter only: the running average ``ax`` does not act on it.

    Newer torches keep the rate in float32, and round it differently with foreach.
    """

    roughness = 1e-6
    defaults = {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0}

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        rate = self.lr / (1 + self.lambd * self.lr * (self.steps - 1)) ** self.alpha
        return value - rate * self.lambd * value - rate * gradient


class Rprop(Rule):
    defaults = {"lr": 0.01, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)}

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        slower, faster = self.etas
        agreement = torch.sign(gradient) * torch.sign(self.kept("previous", gradient))
        one = torch.ones_like(agreement)
        factor = torch.where(agreement > 0, one * faster, one)
        factor = torch.where(agreement < 0, one * slower, factor)
        size = self.kept("size", gradient, self.lr) * factor
        size = torch.clamp(size, self.step_sizes[0], self.step_sizes[1])
        gradient = torch.where(agreement < 0, one * 0, gradient)
        self.state["previous"], self.state["size"] = gradient, size
        return value - torch.sign(gradient) * size


class Adafactor(Rule):
    """Factored second moments for matrices; a relative step, clipped by its own size."""

    defaults = {
        "lr": 0.01,
        "beta2_decay": -0.8,
        "eps": (None, 1e-3),
        "d": 1.0,
        "weight_decay": 0.0,
        "decoupled_weight_decay": True,
    }

    def step(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """As every rule; the step's size goes by the value before its decay."""
        self.state["size"] = value.pow(2).mean().sqrt()
        return super().step(value, gradient)

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        small = self.eps[0] or float(torch.finfo(self.dtype).eps)
        fresh = float(self.steps) ** self.beta2_decay
        square = gradient * gradient
        if gradient.dim() > 1:
            rows = (1 - fresh) * self.kept("rows", square.mean(-1, keepdim=True)) + fresh * square.mean(
                -1, keepdim=True
            )
            columns = (1 - fresh) * self.kept(
                "columns", square.mean(-2, keepdim=True)
            ) + fresh * square.mean(-2, keepdim=True)
            self.state["rows"], self.state["columns"] = rows, columns
            estimate = rows @ columns / rows.mean(-2, keepdim=True).clamp(min=small)
        else:
            estimate = (1 - fresh) * self.kept("square", gradient) + fresh * square
            self.state["square"] = estimate
        change = gradient / estimate.clamp(min=small * small).sqrt()
        clip = max(1.0, float(change.pow(2).mean().sqrt()) / self.d)
        rate = max(self.eps[1], float(self.state["size"])) * min(self.lr, self.steps**-0.5)
        return value - rate / clip * change


class Muon(Rule):
    """Momentum, orthogonalized by Newton and Schulz's iteration, which torch runs in bfloat16."""

    roughness = 0.35  # of the largest element of an update
    defaults = {
        "lr": 1e-3,
        "weight_decay": 0.1,
        "decoupled_weight_decay": True,
        "momentum": 0.95,
        "nesterov": True,
        "ns_steps": 5,
        "adjust_lr_fn": "original",
        "eps": 1e-7,
    }
    coefficients = (3.4445, -4.775, 2.0315)

    def update(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        keep = self.momentum
        velocity = keep * self.kept("velocity", gradient) + (1 - keep) * gradient
        self.state["velocity"] = velocity
        matrix = (1 - keep) * gradient + keep * velocity if self.nesterov else velocity
        tall = matrix.shape[0] > matrix.shape[1]
        matrix = matrix.t() if tall else matrix
        matrix = matrix / matrix.pow(2).sum().sqrt().clamp(min=self.eps)
        one, two, three = self.coefficients
        for _ in range(self.ns_steps):
            gram = matrix @ matrix.t()
            matrix = one * matrix + (two * gram + three * gram @ gram) @ matrix
        matrix = matrix.t() if tall else matrix
        rows, columns = matrix.shape
        if self.adjust_lr_fn == "match_rms_adamw":
            rate = 0.2 * max(rows, columns) ** 0.5
        else:
            rate = max(1.0, rows / columns) ** 0.5
        self.mixed = self.lr * max(1.0, rate) if bool(matrix.any()) else 0.0
        return value - self.lr * rate * matrix


REFERENCES: Dict[str, Type[Rule]] = {
    rule.__name__: rule
    for rule in (
        *(SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Adamax, ASGD, Rprop),
        *(Adafactor, Muon),
    )
}


def referenced(roughest: float = 1.0) -> List[str]:
    """The optimizers of the installed torch that have a reference rule, up to a roughness."""
    return [
        name
        for name, rule in REFERENCES.items()
        if hasattr(torch.optim, name) and rule.roughness <= roughest
    ]


def rule_for(spec: OptimizerSpec, dtype: torch.dtype = torch.float32) -> Optional[Rule]:
    """A fresh reference rule for one parameter; None where the optimizer has no reference."""
    rule = REFERENCES.get(spec.name)
    return None if rule is None else rule(dict(spec.options), dtype)


def allowed_error(
    rule: Rule, dtype: torch.dtype, before: torch.Tensor, expected: torch.Tensor
) -> torch.Tensor:
    """What rounding may do to each element in the step that ``rule`` has just made.

    An adaptive rule divides by the gradient's size: rounding of a gradient that has all
    but cancelled is amplified up to a whole step the other way.
    """
    unit = float(torch.finfo(dtype).eps)
    update = (expected - before).abs()
    rough = rule.roughness if rule.mixed else 0.0  # Muon's: without a gradient only decay is left
    if dtype not in (torch.bfloat16, torch.float16):
        relative = max(1e-9 if unit < 1e-12 else 2e-4, rough)
    else:  # the state is rounded as well, step after step
        relative = max(8 * unit * rule.steps, rough)
    allowed = relative * update + 4 * unit * (before.abs() + expected.abs())
    largest = float(update.max()) if update.numel() else 0.0
    allowed = allowed + (8 * unit * rule.cancelled).clamp(max=2.0) * largest
    # rough rules mix the elements
    mixed = rough if rough > 1e-3 else 1e-3 * relative
    return allowed + mixed * max(largest, float(rule.lr)) + 1e-300
