"""The likely cause of what was found in a recipe, and what to do about it, in words."""

from typing import Any, Optional

import torch

from frostproof.properties.harness.own.optimizer_watch import Hand

REPLACED = (
    "the parameter was replaced by a new one under the same name: write into it with copy_ under "
    "no_grad, or freeze the new one"
)
RESHAPED = (
    "the parameter was replaced by one of another shape or dtype: what is frozen keeps both; put "
    "what grows or shrinks into a parameter of its own"
)
ROUNDING = (
    "an in-place write outside the optimizer that only rounds: an adapter merged and taken out again, "
    "weights perturbed and put back, or an average (EMA) that shares this memory and averages it with "
    "itself; work on a clone"
)
ALIAS = (
    "an in-place write through .data or an alias of its memory, outside the optimizer (an init, a "
    "copy, an average, a merged adapter): leave frozen parameters out of it"
)
WRITTEN = (
    "an in-place write outside the optimizer (an init, copy_, load_state_dict, EMA, weight clipping): "
    "leave frozen parameters out of it"
)
SHARED = (
    "shared storage: both are one memory, and the other trains; clone the values, or tie by using one "
    "Parameter and freeze that"
)
KEPT_SHARED = (
    "shared storage: state_dict(), detach(), numpy() and .data are aliases that follow training: clone "
    "each value, or deepcopy"
)
KEPT_ITSELF = "it is the live tensor itself, not a copy: use copy.deepcopy or clone"
BECAME_ITS_LEADER = (
    "the name was bound to the network that trains (target = online), so there is no copy any more: "
    "copy the values, with load_state_dict or copy_"
)
OF_WRITING = (ROUNDING, ALIAS, WRITTEN)
LARGEST_NORM = (
    "its max_norm: the embedding shortens the rows that it looks up, in place, frozen or not: set "
    "max_norm to None"
)
UNDONE = (
    "something in the step makes it trainable again (requires_grad_(True) over all parameters, a "
    "trainer that unfreezes): freeze after that, or leave these out of it"
)
FLAG_OF_A_MODULE = (
    "a module has no such flag, so this changed nothing: call requires_grad_(...) on the module"
)
MISSPELT = "misspelt: the flag of a parameter is requires_grad; this attribute does nothing"
THAWED = (
    "weight_norm (or another reparametrization) after freezing made a new parameter, which requires "
    "grad: freeze after it"
)
NOTHING_TO_TRAIN = "requires_grad is False everywhere: unfreeze the part that should train"
KEPT_WITH_GRADIENT = (
    "a forgotten detach() or no_grad round what is kept (a target network, a teacher); where gradients "
    "must pass through it, call requires_grad_(False) on it"
)
NO_BACKWARD = (
    "no parameter got a gradient: the step calls no backward, or its loss is cut off (detach, no_grad, "
    "item) from all of them"
)
CUT_OFF = (
    "everything up to here is cut off from the loss: a detach() or no_grad between this part and the "
    "loss, or a reentrant checkpoint whose inputs do not require grad"
)
UNUSED = (
    "the loss does not depend on it: it is unused in forward (dead), or behind a detach(), no_grad or "
    "argmax, or a checkpoint or autograd function that loses its gradient"
)
NOT_HELD_EITHER = (
    "; no optimizer holds it either: if it is meant to stay as it is, freeze it with "
    "requires_grad_(False) or return it in keep"
)
NOT_HELD = "no optimizer holds it: build the optimizer from the parameters that should train"
UNFROZEN_LATE = (
    "no optimizer holds it: it was frozen when the optimizer was built; add_param_group when it is "
    "unfrozen, or give the optimizer all parameters from the start"
)
RECREATED = (
    "the optimizer holds another tensor of its shape that is not in the model: the parameter was "
    "re-created after the optimizer was built; build the optimizer last"
)
DEAD = "a dead unit (ReLU below zero, a zero factor before it), or a loss that ignores it"
NEVER_STEPPED = "optimizer.step() is never called (or a GradScaler skips it)"
CLEARED = (
    "its gradient is cleared between backward and optimizer.step(): call zero_grad before backward, "
    "or after the step"
)
WRITTEN_BACK = (
    "the optimizer moves it, and something writes the old value back outside the optimizer's step "
    "(load_state_dict, copy_, a restored backup): leave it out of that"
)
REPLACED_LATER = (
    "the optimizer holds the parameter that was there before: write into that one with copy_ under "
    "no_grad, or build the optimizer anew"
)
DIES_OUT = (
    "the update rounds away, or the optimizer's own rule has come to an end (a step size or a scale "
    "that falls to nothing)"
)
FLOWS_TOGETHER = (
    "its gradient is not cleared between the two: call zero_grad of its own optimizer right before its "
    "backward, or detach what the other loss should not reach"
)
WRITTEN_WITH_ITSELF = (
    "it is loaded or copied from itself, or from an old copy, instead of from its leader: load the "
    "leader's state_dict"
)
WITHOUT_STATISTICS = (
    "the average goes over parameters() alone, which leaves out buffers: copy or average the buffers "
    "too, or run update_bn before the average is used"
)
FOLLOWS_IN_PART = (
    "the loop that follows leaves it out (zip ends with the shorter list, or goes over a part alone): "
    "go over all parameters of both"
)
CLEARED_BY_HAND = (
    "its gradient is cleared between backward and optimizer.step(), while others keep theirs: frozen "
    "by hand"
)
CANCELLED_IN_VAIN = (
    "the gradients of the copy are cancelled in place of those of its leader, which trains on: go over "
    "the parameters of the network that trains"
)
ROUNDS_AWAY = "the update rounds away, or something writes the old value back"
DATA_ENDED = "; the data ended: let the step begin it again, or ask for fewer --steps"
OF_BATCHNORM = "its BatchNorm runs in train mode: call eval() on what is kept"
KEPT_WRITTEN = "an in-place write in the step (an average, copy_, load_state_dict)"


def _reasons(hand: Hand) -> str:
    """What in an optimizer moves a parameter whose gradient is zero."""
    reasons = []
    if hand.options.get("weight_decay"):
        reasons.append(f"weight decay {hand.options['weight_decay']:g}")
    if hand.has_state:
        reasons.append("momentum (optimizer state from earlier gradients)")
    return " and ".join(reasons) or "its rule"


def by_optimizer(hand: Hand) -> str:
    """A frozen parameter that an optimizer's step moved."""
    clear = "set its grad to None when you freeze it (zero_grad(set_to_none=True))"
    if hand.gradient == "nonzero":
        return f"a stale gradient: {hand.name} found one from before it was frozen; {clear}"
    if hand.gradient == "none":
        if "LBFGS" in hand.name:
            return (
                "LBFGS moves what has no gradient along its old directions: leave frozen parameters "
                "out of the optimizer"
            )
        return f"{hand.name} moves parameters that have no gradient: leave it out of the optimizer"
    return (
        f"a zeroed gradient: {hand.name} takes a gradient of zeros as a gradient, and {_reasons(hand)} "
        f"moved it; {clear}, or leave it out of the optimizer"
    )


def of_live_parameter(hand: Hand) -> str:
    """A live parameter among others that train, which is to be kept."""
    copy = "; if a copy was meant, use copy.deepcopy or clone"
    if hand.gradient == "nonzero":
        return (
            f"it is a live parameter, and {hand.name} trains it: it found a gradient there that is not "
            "zero, so nothing has frozen it, and nothing has cancelled its gradient; freeze it with "
            f"requires_grad_(False), or set its grad to None after backward{copy}"
        )
    return f"it is a live parameter, with {by_optimizer(hand)}{copy}"


def of_rows(hand: Hand) -> str:
    """A part of a live parameter, which is to be kept."""
    if hand.gradient == "nonzero":
        return (
            f"it is a part of a live parameter, and {hand.name} found a gradient there that is not "
            "zero: set that part of the gradient to zero after backward, or put the part into a frozen "
            "parameter of its own; if a copy was meant, clone it"
        )
    return (
        f"the gradient is zero there, but {hand.name} updates the whole parameter: {_reasons(hand)} "
        "moved that part; take weight decay and momentum off this parameter, write the part back after "
        "each step, or put it into a frozen parameter of its own"
    )


def of_zeroed_gradient(hand: Hand) -> str:
    """A trainable parameter, or a part of it, whose gradient is set to zero by hand."""
    return (
        f"{hand.name} takes a gradient of zeros as a gradient, and {_reasons(hand)} moves what is to "
        "stand: take weight decay and momentum off this parameter, or write the values back after each "
        "step; of a whole parameter set the gradient to None"
    )


def by_writing(owner: Any, tensor: torch.Tensor, change: Optional[float], silent: bool) -> str:
    """A frozen parameter that something outside the optimizer wrote into.

    owner: its module; silent: its version counter did not notice.
    """
    if getattr(owner, "max_norm", None) is not None:
        return LARGEST_NORM
    with torch.no_grad():
        real = tensor.is_floating_point() and tensor.numel()
        largest = float(tensor.abs().max()) if real and tensor.element_size() > 1 else 0.0
    if change is not None and largest and change <= 1e-5 * largest:
        return ROUNDING
    return ALIAS if silent else WRITTEN


def of_buffer(owner: Any, name: str, counted: bool) -> str:
    """A buffer of a frozen module that moved.

    name: the last part of its own; counted: the batches that BatchNorm counts went on, too.
    """
    kind = type(owner).__name__
    if owner is not None and owner.training:
        return (
            f"{kind} is in train mode, where its buffers follow the data although its parameters are "
            "frozen: call eval() on it after every train()"
        )
    if hasattr(owner, "observer_enabled") or "Observer" in kind:
        return (
            f"{kind} is in eval mode, and goes on observing in it: freezing and eval() do not stop an "
            "observer; call disable_observer() on it"
        )
    if counted or "Norm" in kind:
        return (
            f"{kind} was in train mode during the step, or something wrote into the buffer: keep it in "
            "eval mode"
        )
    return (
        f"{kind} writes into {name} in eval mode too, or something else in the step does: freezing and "
        "eval() do not stop that"
    )


def too_small(dtype: torch.dtype) -> str:
    """An update that a short dtype swallows."""
    return (
        f"the update is smaller than the spacing of {dtype}: keep a float32 copy of the weights, or a "
        "larger learning rate"
    )
