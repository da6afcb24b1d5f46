"""The paper's equations, what we do with each, and the lines of code that do it.

The code is read from the installed files, never imported: some of it needs PyTorch, which serving does not.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Equation:
    """One equation (or definition) and how it is met here."""

    number: str
    title: str
    latex: str
    paper: str
    here: str
    code: tuple[str, ...]
    """As `module:name` or `module:Class.method`."""


@dataclass(frozen=True)
class Source:
    """A definition as it stands in its file."""

    place: str
    """Path inside the package, with the line it starts at."""
    text: str


@lru_cache(maxsize=64)
def source(reference: str) -> Source:
    """The code that a reference such as `qmoe_core.routing.mixing:mix` names.

    Raises:
        LookupError: there is no such module, or no such definition in it.
    """
    module, _, path = reference.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"no module {module}")
    text = Path(spec.origin).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for name in path.split("."):
        children = ast.iter_child_nodes(node)
        found = [child for child in children if isinstance(child, _DEFINITIONS) and child.name == name]
        if not found:
            raise LookupError(f"no {path} in {module}")
        node = found[0]
    assert isinstance(node, _DEFINITIONS)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    file = "/".join([*module.split(".")[:-1], Path(spec.origin).name])
    return Source(f"{file}, line {first}", "\n".join(line[indent:] for line in lines))


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

EQUATIONS = (
    Equation(
        "1",
        "The mel scale",
        r"M(f) = 1125 \cdot \ln\left(1 + \frac{f}{700}\right)",
        "STFT with window 2,048 and hop 512, triangular filters on the mel scale.",
        "The same, with 128 bands up to 11,025 Hz. The constant 1,125 cancels, because filters lie evenly "
        "between two mel values.",
        (
            "qmoe_core.audio.mel:hz_to_mel",
            "qmoe_core.audio.mel:mel_filterbank",
            "qmoe_core.audio.mel:log_mel",
        ),
    ),
    Equation(
        "1a",
        "The embedding",
        r"z = f(\mathrm{mel}(x)) \in \mathbb{R}^{D}",
        "1,024 numbers from the penultimate layer of EfficientNet-B3 or MobileNet-v3, which see the "
        "spectrogram as a picture. The results are those of 1,536.",
        "The bundle’s embedder; a network of ours, or EfficientAT’s, runs in a number format of its own. "
        "Each number is standardised with its mean and deviation over the training clips.",
        (
            "qmoe_core.embedders.learned:LearnedEmbedder.embed",
            "qmoe_core.embedders.logmel_stats:LogMelStats.statistics",
            "qmoe_core.bundles:Bundle.standardise",
        ),
    ),
    Equation(
        "2",
        "k-bit weights",
        r"\begin{gathered}"
        r"W_q = \mathrm{clip}\left(\mathrm{round}\left(\tfrac{W}{s}\right), -2^{k-1}, 2^{k-1}-1\right)"
        r" \\[1ex] s = \frac{\max|W|}{2^{k-1}-1} \end{gathered}",
        "k from {1, 2, 4, 8, 16}. Its code quantizes in float at every call, and leaves 16 bits as float.",
        "Weights are packed once and served as integers; 16 bits are quantized to 16 bits. Eq. 2 divides by "
        "zero at k = 1, so one bit is the sign times the mean of |W|. At k = 2 the grid is −1, 0, 1 and "
        "most weights fall to zero: the 2-bit cliff.",
        (
            "qmoe_core.experts.layers:BitLinear",
            "qmoe_core.experts.layers:quantise_activation",
            "qmoe_core.engine.reference:linear",
        ),
    ),
    Equation(
        "3",
        "Ternary weights (BitNet)",
        r"W_{\mathrm{ternary}} = \mathrm{sign}(W) \cdot \mathbb{1}(|W| > \tau)",
        "τ is a learned threshold and the scale is learned for each channel. In its code both are fixed or "
        "computed, and activations are made ternary as well.",
        "Threshold and scale are learned for each output channel; activations have 8 bits.",
        ("qmoe_core.experts.layers:TernaryLinear",),
    ),
    Equation(
        "4",
        "Popcount",
        r"y = \mathrm{popcount}(x_b \oplus w_b) - \frac{d}{2}",
        "Called 8-bit post-training quantization, though every number in it is one bit. Its code sums byte "
        "values instead of bits, and passes no gradient.",
        "Single bits counted as such, after a short fine-tune. Eq. 4 is −½ of the product of the ±1 vectors; "
        "the factor "
        "goes into the scale. The 8-bit rounding that the paper’s table measures is our expert ptq8.",
        ("qmoe_core.experts.layers:PopcountLinear", "qmoe_core.experts.layers:RoundedLinear"),
    ),
    Equation(
        "5",
        "The router",
        r"r_i = \frac{\exp(G_i(z)/T)}{\sum_{j=1}^{N} \exp(G_j(z)/T)}",
        "Written pᵢ, the letter that Eq. 7 and 8 use for something else. The temperature T is not in its "
        "code.",
        "Written rᵢ, a number for each expert; qᵢ is an expert’s distribution over the classes. T is a "
        "setting.",
        ("qmoe_core.routing.uncertainty:softmax", "qmoe_core.routing.mixing:mix"),
    ),
    Equation(
        "5a",
        "The router’s own uncertainty",
        r"\sigma_i^2 = \frac{1}{S} \sum_{s=1}^{S} \big(r_i^{(s)} - \bar r_i\big)^2",
        "Figure 1: “Bayesian router computes epistemic uncertainty via Monte Carlo dropout”; S = 10 passes.",
        "S passes, each with other hidden units left out, give S distributions r⁽ˢ⁾. With curiosity by the "
        "router σ takes the place of d in Eq. 8. It hardly finds the mixture’s errors: Compare has its "
        "AUROC.",
        ("qmoe_core.routing.router:Router.masks", "qmoe_core.routing.uncertainty:spread"),
    ),
    Equation(
        "7",
        "Entropy of the experts’ mean",
        r"\begin{gathered} H(y|z) = -\sum_{c=1}^{C} \bar{q}_c \log \bar{q}_c"
        r" \\ \bar{q}_c = \frac{1}{N}\sum_{i=1}^{N} q_{i,c} \end{gathered}",
        "“High entropy indicates disagreement among quantization strategies.”",
        "Not so: this is the total. Experts who are all equally unsure have a high entropy and no "
        "disagreement. "
        "Disagreement is what is left of it after the next definition takes the experts’ own doubt away.",
        ("qmoe_core.routing.uncertainty:entropy",),
    ),
    Equation(
        "7a",
        "Total, aleatoric, epistemic",
        r"\underbrace{H(\bar q)}_{\text{total}} = \underbrace{\tfrac{1}{N}\textstyle\sum_i H(q_i)}"
        r"_{\text{aleatoric}}"
        r" + \underbrace{\tfrac{1}{N}\textstyle\sum_i \mathrm{KL}(q_i \,\|\, \bar q)}_{\text{epistemic}}",
        "Names epistemic uncertainty, but gives no formula for it.",
        "The mutual information between the answer and the expert who gives it (BALD, Houlsby et al. 2011).",
        ("qmoe_core.routing.uncertainty:disagreement", "qmoe_core.routing.uncertainty:mutual_information"),
    ),
    Equation(
        "8",
        "Curiosity",
        r"r_i^{\mathrm{curious}} \propto r_i \cdot \exp(\alpha \cdot \mathrm{KL}(q_i \,\|\, \bar q))",
        "α is 0.2 or 0.3. The equation is absent from its code, where curiosity is ten passes that are "
        "computed, logged and not used.",
        "As printed. It needs every expert’s output, and rewards the one that deviates most, which may be "
        "the worst. Quantized copies of one classifier differ by about 0.01 nats, so at α = 0.3 the bonus "
        "is about 1.003: it takes α of 10 and more, or a much coarser expert, to move the routing.",
        (
            "qmoe_core.routing.uncertainty:divergence",
            "qmoe_core.routing.curiosity:bonus",
            "qmoe_core.routing.curiosity:curious_routing",
        ),
    ),
    Equation(
        "8a",
        "Distilled curiosity",
        r"\begin{gathered}"
        r"\hat{d}_i = \min\left(\exp(w_i \cdot \phi + b_i),\ \max d_i\right)"
        r" \\[1ex] \phi = \big(\ell_{(1)} - \ell_{(2)},\ \log(1 - \max q), \\ \log H(q),\ r\big)"
        r" \\[1ex] r_i^{\mathrm{curious}} \propto r_i \cdot \exp(\alpha \cdot \hat{d}_i) \end{gathered}",
        "Has nothing of the kind: Eq. 8 needs every expert’s output, which is what a mixture was meant to "
        "save.",
        "One cheap expert runs. From its logits ℓ, its distribution q and the router’s r, a ridge regression "
        "predicts each d as d̂, called predicted disagreement on the other pages. It learns from clips that "
        "the experts had not seen: slopes within folds, the level over all. No d̂ exceeds the largest d it "
        "learned from, so where that could not change who answers, not even the cheap expert runs.",
        (
            "qmoe_core.routing.distilled:features",
            "qmoe_core.routing.distilled:Head",
            "qmoe_core.routing.distilled:fit",
            "qmoe_core.routing.distilled:worth_asking",
        ),
    ),
    Equation(
        "6",
        "The mixture",
        r"y = \sum_{i \in \mathrm{TopK}} r_i \cdot E_i(z)",
        "Its code divides by k without renormalising, and mixes logits.",
        "The top k are renormalised to one, and probabilities are mixed. mix = “logits” gives the paper’s "
        "way.",
        ("qmoe_core.routing.curiosity:top_k", "qmoe_core.routing.mixing:mix"),
    ),
)
"""In the order of the way from a sound to the decision, which ends with Eq. 6."""
