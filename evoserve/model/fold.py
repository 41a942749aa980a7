"""Scales of a path folded into weights, so that a stock decoder computes the same function.

mlp_output, x_t = r_(t-1) + s_t branch_(t-1): s_t goes into down_proj of hop t-1, s_0 into the
embedding. Exact.

hidden_state, x_t = s_t h_(t-1): with S_t = s_0 ... s_t let the stock model carry g_t = h_t / S_t.
Hop t adds its branches to x_t = S_t g_(t-1), so in units of g its o_proj and down_proj are divided
by S_t, and its norms read S_t g in place of g:
    RMSNorm(S g; eps) = sign(S) RMSNorm(g; eps / S^2)
so a negative S_t flips the hop's norm weights (and a negative last S the final norm). The one eps
of a stock config is eps / s_0^2, exact at hop 0, where the stream is smallest; elsewhere eps is off
by (s_0 / S_t)^2. q_norm and k_norm (Qwen3) share that eps but read no part of the stream: dividing
q_proj and k_proj by |s_0| keeps them exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from evoserve.errors import ManifestError
from evoserve.model.plan import PathPlan

MIN_FIRST = 1e-6
MAX_GROWTH = 1e6
MAX_SHRINK = 256.0
EPS_MATTERS = 4.0
"""Bounds on |S_t| against |s_0|, measured on a 36-step SmolLM2 path, see docs/paths.md."""


@dataclass(frozen=True)
class LayerFold:
    """What one hop's tensors are multiplied by."""

    norms: float = 1.0
    query_key: float = 1.0
    out: float = 1.0
    down: float = 1.0

    def factor(self, short: str) -> float:
        """Of the layer's tensor `short`, such as `mlp.down_proj.weight`."""
        table = {
            "input_layernorm": self.norms,
            "post_attention_layernorm": self.norms,
            "self_attn.q_proj": self.query_key,
            "self_attn.k_proj": self.query_key,
            "self_attn.o_proj": self.out,
            "mlp.down_proj": self.down,
        }
        return table.get(short.rpartition(".")[0], 1.0)


@dataclass(frozen=True)
class Fold:
    """Factors of a whole path; `eps` is the stock model's rms_norm_eps."""

    embed: float
    layers: tuple[LayerFold, ...]
    final_norm: float
    eps: float
    warnings: tuple[str, ...] = ()


def fold_path(plan: PathPlan) -> Fold:
    """Fold the plan's scales. Raises ManifestError for hidden_state scales that collapse."""
    scales = [step.scale for step in plan.steps]
    eps = plan.head.rms_norm_eps
    if plan.target == "mlp_output":
        layers = tuple(LayerFold(down=scale) for scale in (*scales[1:], 1.0))
        return Fold(scales[0], layers, 1.0, eps)
    has_qk_norm = plan.steps[0].architecture.qk_norm
    return _fold_hidden_state(scales, eps, has_qk_norm=has_qk_norm)


def _fold_hidden_state(scales: Sequence[float], eps: float, *, has_qk_norm: bool) -> Fold:
    products = list(accumulate(scales, mul))
    first = products[0]
    _check_products(products)
    query_key = 1.0 / abs(first) if has_qk_norm else 1.0
    layers = tuple(
        LayerFold(_sign(product), query_key, 1.0 / product, 1.0 / product) for product in products
    )
    warnings = _eps_warnings(products)
    return Fold(1.0, layers, _sign(products[-1]), eps / first**2, warnings)


def _check_products(products: Sequence[float]) -> None:
    first = abs(products[0])
    if first < MIN_FIRST:
        raise _not_foldable(f"the scale of hop 0 is {products[0]:.3g}, below {MIN_FIRST:g}")
    for hop, product in enumerate(products):
        if not first / MAX_SHRINK <= abs(product) <= first * MAX_GROWTH:
            raise _not_foldable(
                f"the scales of hops 0 to {hop} multiply to {product:.3g}, {products[0]:.3g} at "
                f"hop 0; beyond a factor of 1/{MAX_SHRINK:g} to {MAX_GROWTH:g}"
            )


def _not_foldable(reason: str) -> ManifestError:
    return ManifestError(
        f"{reason} hidden_state scales cannot be folded into a stock checkpoint: use target "
        "mlp_output, or serve the recipe itself",
        where="scaling",
    )


def _eps_warnings(products: Sequence[float]) -> tuple[str, ...]:
    shrink = abs(products[0]) / min(map(abs, products))
    if shrink <= EPS_MATTERS:
        return ()
    return (
        f"the cumulative product of the hidden_state scales shrinks {shrink:.3g} times below the "
        f"first scale; beyond {EPS_MATTERS:g} the one rms_norm_eps of a stock config can change "
        "logits by 0.1 and more (docs/paths.md): compare before you publish",
    )


def _sign(value: float) -> float:
    return -1.0 if value < 0 else 1.0
