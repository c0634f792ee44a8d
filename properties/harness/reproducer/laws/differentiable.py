"""Programs for the law of differentiable steps."""

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import options_text
from frostproof.properties.test_differentiable import DIFFERENTIABLE, unrolled
from frostproof.strategies import OptimizerSpec

if DIFFERENTIABLE:

    @reproduces("test_differentiable.py::test_differentiable_steps")
    def differentiable_steps(case: Case, script: Script) -> None:
        """The same gradients, fed to a differentiable and to an ordinary optimizer."""
        spec, count, seed = case.draws(OptimizerSpec("SGD", (("lr", 0.1),)), 1, 0)
        script.add(f"generator = torch.Generator().manual_seed({seed})")
        drawn = "torch.rand(3, generator=generator, dtype=torch.float64) + 0.25"
        script.add(
            f"start, *gradients = [({drawn}).to(device, dtype) for _ in range({count + 1})]",
            "plain = nn.Parameter(torch.empty_like(start).copy_(start))",
            "live = start.requires_grad_() * 1",
            "frozen = nn.Parameter(torch.full((3,), 0.75, device=device, dtype=dtype), False)",
        )
        script.note("before", "before = frozen.tolist()")
        for name, parameters, way in (
            ("optimizer", "[live, frozen]", True),
            ("other", "[plain]", False),
        ):
            options = options_text(unrolled(spec, way))
            script.add(f"{name} = torch.optim.{spec.name}({parameters}{options})")
        with script.block("for gradient in gradients:"):
            script.add(
                "live.grad, plain.grad = gradient, torch.empty_like(gradient).copy_(gradient)",
                "optimizer.step()",
                "other.step()",
            )
            script.check(
                "((live - plain).abs() <= 1e-6 + 1e-4 * plain.abs()).all()",
                "a differentiable step ends at {live.tolist()}, an ordinary one at {plain.tolist()}",
            )
            script.check("frozen.tolist() == before", "frozen went from {before} to {frozen.tolist()}")
            script.check("frozen.grad is None", "the frozen parameter has a gradient")
            if spec.name != "Adagrad":
                script.check("frozen not in optimizer.state", "the frozen parameter has state")
            script.check("live.grad_fn is not None", "the value has left the graph")
