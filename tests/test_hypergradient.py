"""What chapter 14 promises, on problems whose answer is known; and that these tests can fail:
each mutant must be caught."""
import inspect
import re
import types

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from instop_nb import hypergradient as hypergradient_module
from instop_nb import products, solvers, systems
from instop_nb.products import PRODUCTS, kept
from instop_nb.hypergradient import METHODS, hypergradient
from instop_nb.systems import adam_scales
from instop_nb.series import largest_curvature, partial_sums, series_explorer, series_picture

torch.set_num_threads(1)
double = torch.float64
pytestmark = pytest.mark.filterwarnings(
    "ignore:gamma is so small", "ignore:the terms of the series", "ignore:the inner Hessian"
)
# Nystrom's sketch is another one where theta lies in other parts
SAME_IN_PARTS = [method for method in METHODS if method != "nystrom"]


class Quadratic:
    """L_in = th'A th / 2 - th'B ph and L_out = |th - t|^2 / 2 + c |ph|^2 / 2, with th and ph
    each in two parts."""
    def __init__(self, n=5, k=5, spread=1., seed=0, c=0., at_minimum=True):
        g = torch.Generator().manual_seed(seed)
        def draw(*shape): return torch.randn(*shape, generator=g, dtype=double)
        Q = torch.linalg.qr(draw(n, n))[0]
        self.A, self.B, self.t, self.c = (
            Q @ torch.logspace(0, -spread, n, dtype=double).diag() @ Q.T, draw(n, k), draw(n), c,
        )
        self.A = (self.A + self.A.T) / 2
        phi = draw(k)
        theta = torch.linalg.solve(self.A, self.B @ phi) if at_minimum else draw(n)
        self.theta, self.phi = (
            [p.clone().requires_grad_() for p in (x[:1], x[1:])] for x in (theta, phi)
        )

    def inner(self):
        th, ph = torch.cat(self.theta), torch.cat(self.phi)
        return th @ self.A @ th / 2 - th @ self.B @ ph
    def outer(self):
        return (torch.cat(self.theta) - self.t).square().sum() / 2 + self.c * torch.cat(
            self.phi
        ).square().sum() / 2

    def answer(self, inverse):
        v1 = torch.cat(self.theta).detach() - self.t
        return self.B.T @ (inverse @ v1) + self.c * torch.cat(self.phi).detach()
    def series(self, M, gamma):
        q = torch.eye(len(self.A), dtype=double) - gamma * self.A
        return gamma * sum(torch.linalg.matrix_power(q, m) for m in range(M + 1))
    def unrolled(self, K, gamma):
        "What K steps of gradient descent and the way back through them give."
        theta, phi = torch.cat(self.theta).detach(), torch.cat(self.phi).detach()
        for _ in range(K): theta = theta - gamma * (self.A @ theta - self.B @ phi)
        return self.B.T @ (self.series(K - 1, gamma) @ (theta - self.t)) + self.c * phi
    def damped(self, damping):
        return torch.linalg.inv(self.A + damping * torch.eye(len(self.A), dtype=double))


def close(found, expected, tolerance=1e-10):
    found = torch.cat([f.reshape(-1) for f in found])
    assert (found - expected).norm() <= tolerance * expected.norm(), (found, expected)


def check_all(hypergradient):
    "Everything that a right implementation gets right on quadratics."
    for seed, c, at_minimum in (0, 0., True), (1, .5, False):
        p = Quadratic(seed=seed, c=c, at_minimum=at_minimum)
        call = lambda **kwargs: hypergradient(p.inner, p.outer, p.theta, p.phi, **kwargs)
        for M, gamma in (0, .3), (1, .3), (4, .3), (1, 1e-5):
            close(call(n_terms=M, gamma=gamma), p.answer(p.series(M, gamma)))
        close(call(method="exact"), p.answer(torch.linalg.inv(p.A)))
        close(call(n_terms=2000, gamma=1.), p.answer(torch.linalg.inv(p.A)))
        close(call(method="exact", damping=.2), p.answer(p.damped(.2)))
        close(call(method="cg", n_terms=5, damping=.2), p.answer(p.damped(.2)))
        close(call(method="cg", n_terms=8), p.answer(torch.linalg.inv(p.A)))
        close(
            call(method="identity", n_terms=3, gamma=0.1),
            p.answer(0.4 * torch.eye(5, dtype=double)),
        )
        for K, gamma in (1, .3), (4, .3):
            close(call(method="unrolled", n_terms=K, gamma=gamma), p.unrolled(K, gamma))
        for M in 0, 3:
            close(call(n_terms=M, gamma=.3, product="differences"), p.answer(p.series(M, .3)), 1e-7)
        close(
            hypergradient(p.inner, [p.outer, p.outer], p.theta, p.phi, method="exact"),
            2 * p.answer(torch.linalg.inv(p.A)),
        )
        close(
            hypergradient(p.inner, p.outer, [*p.theta, p.theta[1]], p.phi, n_terms=2, gamma=0.3),
            p.answer(p.series(2, 0.3)),
        )
    check_others(hypergradient, p)
    check_unrolled(hypergradient)


def check_others(hypergradient, p):
    "Other units, a gamma from the products, a start, a batch a term, a sketch and a penalty."
    call = lambda **kwargs: hypergradient(p.inner, p.outer, p.theta, p.phi, **kwargs)
    scales = torch.logspace(-1, 1, 5, dtype=double)
    E, P, parts = torch.eye(5, dtype=double), scales.diag(), [scales[:1], scales[1:]]
    for product, near in ("exact", 1e-10), ("differences", 1e-6):
        there = dict(precondition=parts, product=product)
        close(call(method="identity", n_terms=1, gamma=.1, **there), p.answer(.2 * P), near)
        power = torch.linalg.matrix_power
        series = lambda A, M, g: sum(power(E - g * P @ A, m) for m in range(M + 1))
        close(call(n_terms=3, gamma=.1, **there), p.answer(.1 * series(p.A, 3, .1) @ P), near)
        found = call(n_terms=3, gamma="auto", damping=.2, **there)
        root, damped = scales.sqrt(), p.A + .2 * E
        top = torch.linalg.eigvalsh(root[:, None] * damped * root).max().item()
        assert .5 / top < 1 / top <= found.gamma * 1.001 < 2 / top
        g = found.gamma
        close(found, p.answer(g * series(damped, 3, g) @ P), near)
        close(call(method="cg", n_terms=8, damping=.2, **there), p.answer(p.damped(.2)), near)
        close(call(method="nystrom", n_terms=5, gamma=5., product=product), p.answer(p.damped(.2)),
              near)
        solved = torch.linalg.inv(P @ p.A + E / 5) @ P
        close(call(method="nystrom", n_terms=5, gamma=5., **there), p.answer(solved), near)
        half = call(n_terms=3, gamma=.3, product=product, keep=True)
        close(call(n_terms=3, gamma=.3, product=product, start=half.solution),
              p.answer(p.series(7, .3)), near)
        half = call(n_terms=2, gamma=.1, keep=True, **there)
        close(call(n_terms=1, gamma=.1, start=half.solution, **there),
              p.answer(.1 * series(p.A, 4, .1) @ P), near)
        double_loss = lambda: 2 * p.inner()
        q = E - .3 * p.A
        turns = .3 * (E + q + (E - .6 * p.A) @ q + q @ (E - .6 * p.A) @ q)
        close(call(n_terms=3, gamma=.3, product=product, terms=[p.inner, double_loss]),
              p.answer(turns), near)
    for n in 1, 4:
        close(call(method="penalty", n_terms=n, gamma=.3), p.answer(p.series(n - 1, .3)), 1e-5)
    damped = .3 * sum(torch.linalg.matrix_power(E - .3 * (p.A + .2 * E), m) for m in range(4))
    close(call(method="penalty", n_terms=4, gamma=.3, damping=.2), p.answer(damped), 1e-5)


def check_unrolled(hypergradient):
    "Three steps on a curved loss, against autograd through them."
    theta, phi = (torch.tensor(x, dtype=double, requires_grad=True) for x in (.9, .4))
    inner = lambda w: w**4 / 4 + w**2 * phi.exp() / 2 - phi * w
    for damping in 0., .5:
        w = theta
        for _ in range(3): w = w - .2 * (grad(inner(w), w, create_graph=True)[0] + damping * w)
        expected = torch.stack(grad((w - 2)**2 + phi**2, [phi]))
        for product, tolerance in ("exact", 1e-12), ("differences", 1e-8):
            found = hypergradient(
                lambda: inner(theta), lambda: (theta - 2) ** 2 + phi**2, [theta], [phi], "unrolled",
                3, 0.2, product, damping,
            )
            close(found, expected, tolerance)


def test_right(): check_all(hypergradient)


def transposed(grads, phi, v):
    "The mixed product with the wrong side of the matrix (theta and phi are of one size here)."
    J = [torch.cat(grad(g_i, phi, retain_graph=True)) for g in grads for g_i in g]
    flat = torch.stack(J) @ torch.cat(v)
    return list(flat.split([p.numel() for p in phi]))

MUTANTS = {
    "wrong sign, series": ("s.mul_(-gamma)", "s.mul_(gamma)"),
    "wrong sign, exact": ("split(-torch", "split(torch"),
    "missing gamma": ("s.mul_(-gamma)", "s.neg_()"),
    "wrong sign in the series": ("t.sub(h, alpha=gamma)", "t.sub(h, alpha=-gamma)"),
    "missing gamma in the series": ("t.sub(h, alpha=gamma)", "t.sub(h)"),
    "one term too many": ("range(n_terms):\n        term", "range(n_terms + 1):\n        term"),
    "only the last term": ("s.add_(t)", "s.copy_(t)"),
    "transposed product": (
        "return filled_gradient(self.grads, phi, v)", "return transposed(self.grads, phi, v)",
    ),
    "direct term left out": ("[i + d for", "[i for"),
    "direct term subtracted": ("[i + d for", "[i - d for"),
    "shared tensors counted twice": ("list({id(t): t for t in theta}.values())", "theta"),
    "identity, one term too few": ("-gamma * (n_terms + 1)", "-gamma * n_terms"),
    "wrong sign, cg": ("a.neg_()", "a"),
    "cg, direction": ("alpha=rr / before", "alpha=before / rr"),
    "damping left out": ("h.add(x, alpha=self.damping)", "h"),
    "unrolled, wrong sign": ("f.sub(m, alpha=gamma)", "f.add(m, alpha=gamma)"),
    "unrolled, wrong way": ("reversed(path)", "path"),
    "unrolled, no curvature": ("v[i] = v[i].sub(h, alpha=gamma)", "pass"),
    "unrolled, no decay": ("x.add(t, alpha=damping)", "x"),
    "units, on one side": ("v = self.scaled(v)", "pass"),
    "units, no way back": ("return watched.scaled(found), gamma", "return found, gamma"),
    "start, wrong residual": ("x.add(h) for x, h in zip(b,", "x.sub(h) for x, h in zip(b,"),
    "start, not added": ("[f.add(x) for f, x in", "[f for f, x in"),
    "start, in other units": ("start = [x / r for", "start = [x * r for"),
    "turn, always the first": ("self.count += 1", "pass"),
    "auto, the curvature": ("return 1 / curvature", "return curvature"),
    "nystrom, no damping": ("draws.T @ Y / gamma + Y.T @ Y", "Y.T @ Y"),
    "nystrom, wrong sign": ("gamma * (Y @ seen - v)", "gamma * (v - Y @ seen)"),
    "penalty, wrong sign": ("-sign * gamma * weight", "sign * gamma * weight"),
    "penalty, half": ("/ (2 * weight)", "/ weight"),
    "penalty, no pull back": ("damping * (t.detach() - s)", "0 * (t.detach() - s)"),
    "differences, missing factor": ("/ (2 * step)", "/ step"),
    "differences, wrong sign": (
        "move_along(self.theta, v, step)", "move_along(self.theta, v, -step)",
    ),
    "differences, not from the start": ("set_values(self.theta, start); ", ""),
    "differences, theta left moved": ("finally: set_values(theta, saved)", "finally: pass"),
    "micro-batches, only the last": (
        "value.backward(inputs=into)",
        "[setattr(i, 'grad', None) for i in inputs]; value.backward(inputs=into)",
    ),
}

# The modules as one text, so that a mutation reaches all who use what it changes
MODULES = products, solvers, systems, hypergradient_module
OWN_IMPORT = re.compile(r"^from (?:\.|instop_nb\.)\w+ import (?:\([^)]*\)|[^\n]*)", re.MULTILINE)

@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name):
    old, new = MUTANTS[name]
    source = "\n".join(OWN_IMPORT.sub("", inspect.getsource(module)) for module in MODULES)
    assert source.count(old) == 1, f"the mutation {old!r} no longer fits the source; adapt it"
    mutant = types.ModuleType("mutant")
    mutant.transposed = transposed
    exec(source.replace(old, new), mutant.__dict__)
    with pytest.raises(AssertionError): check_all(mutant.hypergradient)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 8), k=st.integers(2, 8), spread=st.floats(0, 3), seed=st.integers(0, 10**6),
    c=st.floats(0, 1), M=st.integers(0, 12), gamma=st.floats(1e-3, 1.9),
)
def test_random_quadratics(n, k, spread, seed, c, M, gamma):
    p = Quadratic(n, k, spread, seed, c)
    close(
        hypergradient(p.inner, p.outer, p.theta, p.phi, n_terms=M, gamma=gamma),
        p.answer(p.series(M, gamma)), 1e-9,
    )
    close(
        hypergradient(p.inner, p.outer, p.theta, p.phi, method="exact"),
        p.answer(torch.linalg.inv(p.A)), 1e-9,
    )
    close(
        hypergradient(p.inner, p.outer, p.theta, p.phi, "cg", 4 * n, damping=0.1),
        p.answer(p.damped(0.1)), 1e-8,
    )
    close(
        hypergradient(p.inner, p.outer, p.theta, p.phi, "unrolled", M + 1, gamma),
        p.unrolled(M + 1, gamma), 1e-9,
    )
    close(
        hypergradient(
            p.inner, p.outer, p.theta, p.phi, n_terms=M, gamma=gamma, product="differences"
        ),
        p.answer(p.series(M, gamma)), 1e-5,
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), method=st.sampled_from(SAME_IN_PARTS),
    product=st.sampled_from([*PRODUCTS]),
)
def test_parts_that_take_no_part(seed, method, product):
    p, (a, b, d) = (
        Quadratic(seed=seed),
        [torch.ones(2, 3, dtype=double, requires_grad=True) for _ in range(3)],
    )
    if (method, product) == ("exact", "differences"):
        return  # a dense Hessian of what takes no part is singular
    expected = hypergradient(p.inner, p.outer, p.theta, p.phi, method, 3, .5, product)
    # a: in the inner loss, but with a constant gradient
    inner = lambda: p.inner() + a.sum()
    outer = lambda: p.outer() + b.square().sum()  # b: in the outer loss only
    if method == "cg" and product == "differences":
        return  # its steps depend on all of v1, also on what takes no part
    found = hypergradient(
        inner, outer, [a, *p.theta, b], [p.phi[0], d, p.phi[1]], method, 3, 0.5, product
    )
    close([found[0], found[2]], torch.cat(expected),
          1e-12 if product == "exact" and method != "penalty" else 1e-5)
    assert found[1].shape == d.shape and not found[1].any()


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("method", SAME_IN_PARTS)
def test_strange_layouts(method, product):
    "Transposed, expanded from a slice, a scalar: the same answer as with plain vectors."
    p = Quadratic(n=6, k=6, seed=3)
    expected = torch.cat(hypergradient(p.inner, p.outer, p.theta, p.phi, method, 4, .5, product))
    th, ph = torch.cat(p.theta).detach(), torch.cat(p.phi).detach()
    theta = th.reshape(2, 3).t().requires_grad_()               # not contiguous
    phi = torch.stack([ph, ph], 1)[:, 0].requires_grad_()        # stride 2
    assert not theta.is_contiguous() and not phi.is_contiguous()
    flat = lambda: theta.t().reshape(-1)
    inner = lambda: flat() @ p.A @ flat() / 2 - flat() @ p.B @ phi
    outer = lambda: (flat() - p.t).square().sum() / 2
    close(
        hypergradient(inner, outer, [theta], [phi], method, 4, 0.5, product), expected,
        1e-10 if product == "exact" and method != "penalty" else 1e-6,
    )


def test_linear_inner_loss_gives_the_direct_term():
    a, f = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    found, = hypergradient(lambda: a.sum(), lambda: a.sum() + 2 * f.sum(), [a], [f])
    assert found.tolist() == [2, 2, 2]


def test_against_training_again():
    "A nonlinear inner problem, solved to the last digit for shifted phi."
    g = torch.Generator().manual_seed(0)
    x, y, x2, y2 = (
        torch.randn(*s, generator=g, dtype=double) for s in ((20, 3), (20,), (20, 3), (20,))
    )
    theta, phi = (
        torch.zeros(3, dtype=double, requires_grad=True),
        torch.zeros(20, dtype=double, requires_grad=True),
    )
    inner = lambda: (
        (phi.exp() * torch.log(torch.cosh(x @ theta - y))).mean()
        + 0.1 * theta.square().sum()
        + 0.1 * (theta**4).sum()
    )
    outer = lambda: torch.log(torch.cosh(x2 @ theta - y2)).mean()
    def train():
        for _ in range(30):
            d, = grad(inner(), theta, create_graph=True)
            H = torch.stack([grad(di, theta, retain_graph=True)[0] for di in d])
            with torch.no_grad(): theta.sub_(torch.linalg.solve(H, d))
        return outer().item()
    def shifted(i, by):
        with torch.no_grad(): phi[i] += by
        loss = train()
        with torch.no_grad(): phi[i] -= by
        return loss
    again = torch.tensor(
        [(shifted(i, 1e-4) - shifted(i, -1e-4)) / 2e-4 for i in range(20)], dtype=double
    )
    train()
    close(hypergradient(inner, outer, [theta], [phi], "exact"), again, 1e-6)
    close(hypergradient(inner, outer, [theta], [phi], n_terms=300, gamma=.5), again, 1e-6)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_behind(method, product):
    p = Quadratic()
    p.theta[0].grad = torch.ones(1, dtype=double)
    before = [t.detach().clone() for t in p.theta + p.phi]
    with torch.no_grad():
        # works inside no_grad too
        found = hypergradient(p.inner, p.outer, p.theta, p.phi, method, product=product)
    assert p.theta[0].grad.item() == 1 and all(t.grad is None for t in [p.theta[1], *p.phi])
    assert all(torch.equal(a, b) for a, b in zip(before, p.theta + p.phi))
    assert not any(f.requires_grad for f in found) and all(t.requires_grad for t in p.theta + p.phi)
    grad(p.inner(), p.theta)  # the caller's own backward still works


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(inner_loss=lambda p: p.theta[1]), "inner_loss: returned shape (4,)"),
        (dict(inner_loss=lambda p: 3.0), "inner_loss: returned float"),
        (dict(inner_loss=lambda p: p.phi[0].sum()), "inner_loss: it does not depend on theta"),
        (
            dict(outer_loss=lambda p: p.outer().detach()),
            "outer_loss: its value depends on no parameter",
        ),
        (dict(outer_loss=lambda p: p.outer() * float("nan")), "outer_loss: its value is nan"),
        (
            dict(outer_loss=lambda p: torch.ones(1, requires_grad=True).sum()),
            "outer_loss: it does not depend on theta",
        ),
        (dict(theta=[]), "theta: empty"), (dict(phi=[]), "phi: empty"),
        (dict(theta=torch.ones(2, requires_grad=True)), "theta: a single tensor"),
        (dict(theta=[torch.ones(2)]), "theta[0]: shape (2,) does not require gradients"),
        (dict(phi=[1.0]), "phi[0]: float"),
        (
            dict(method="magic"),
            "method: 'magic'; choose one of 'neumann', 'cg', 'identity', 'exact', 'nystrom', 'unro",
        ),
        (dict(gamma=0), "gamma: 0"), (dict(gamma=float("nan")), "gamma: nan"),
        (dict(n_terms=-1), "n_terms: -1"), (dict(n_terms=1.5), "n_terms: 1.5"),
        (dict(method="cg", n_terms=0), "for 'cg' 1 or more"),
        (dict(product="forward"), "product: 'forward'; choose one of 'exact', 'differences'"),
        (dict(damping=-1.0), "damping: -1"),
        (dict(method="nystrom", n_terms=0), "'nystrom' and 'penalty', too"),
        (dict(method="penalty", n_terms=0), "'nystrom' and 'penalty', too"),
        (dict(method="nystrom", damping=.1), "1 / gamma is its own"),
        (dict(gamma="best"), "or 'auto'"),
        (dict(gamma="auto", method="unrolled"), "gamma 'auto': it means nothing for"),
        (dict(gamma="auto", method="penalty"), "gamma 'auto': it means nothing for"),
        (dict(precondition=[torch.ones(1), torch.ones(4)], method="exact"), "precondition: it"),
        (dict(precondition=[torch.ones(5)]), "precondition: 1 tensors, not like the 2 of theta"),
        (dict(precondition=[torch.ones(1), torch.zeros(4)]), "precondition: not above 0"),
        (dict(start=[torch.ones(1), torch.ones(4)], method="unrolled"), "start: it means nothing"),
        (dict(start=[torch.ones(4), torch.ones(1)]), "start: 2 tensors, not like the 2 of theta"),
        (dict(terms=[lambda: 1.0], method="cg"), "terms: it means nothing for method 'cg'"),
        (dict(outer_loss=lambda p: 1.0), "outer_loss: returned float"),
        (dict(gamma=1e4, n_terms=300), "the series diverges"),
    ],
)
def test_errors(change, words):
    p = Quadratic()
    args = dict(inner_loss=p.inner, outer_loss=p.outer, theta=p.theta, phi=p.phi) | change
    for name in ("inner_loss", "outer_loss"):
        if name in change: args[name] = lambda f=change[name]: f(p)
    with pytest.raises(ValueError) as e: hypergradient(**args)
    assert words in str(e.value)


def test_more_errors():
    p = Quadratic()
    with pytest.raises(ValueError, match="give a function"):
        hypergradient(p.inner(), p.outer, p.theta, p.phi)
    with pytest.raises(ValueError, match="a tensor is in both"):
        hypergradient(p.inner, p.outer, p.theta, p.theta)
    flat = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="singular"):
        hypergradient(
            lambda: flat[0] ** 2 * p.phi[0].sum(), lambda: flat.sum(), [flat], p.phi, "exact"
        )
    big = torch.ones(6000, requires_grad=True)
    with pytest.raises(ValueError, match="6,000"):
        hypergradient(
            lambda: big.square().sum() * p.phi[0].sum(), lambda: big.sum(), [big], p.phi, "exact"
        )


# The account

def test_the_result_tells_how_it_was_found():
    p = Quadratic(n=4, k=4, spread=0.)  # all curvatures are 1
    found = hypergradient(p.inner, p.outer, p.theta, p.phi, n_terms=2, gamma=.25)
    v1 = (torch.cat(p.theta) - p.t).norm().item()
    assert (
        found.how == "neumann, exact"
        and found.v_norm == pytest.approx(v1)
        and found.ratio == pytest.approx(0.25)
        and not found.warning
    )
    assert "neumann, exact" in repr(found) and "no warning" in repr(found) and len(found) == 2
    assert hypergradient(p.inner, p.outer, p.theta, p.phi, "identity").ratio != found.ratio


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(gamma=1e-5), "does nothing"), (dict(gamma=1e-5, n_terms=100), "does nothing"),
        (dict(gamma=2.5), "diverges"), (dict(gamma=2.2, n_terms=10), "diverges"),
        (dict(method="unrolled", gamma=2.5, n_terms=3), "diverges"), (dict(gamma=1.0), ""),
        (dict(gamma=0.1, n_terms=30), ""), (dict(method="identity", gamma=1e-5), ""),
        (dict(method="cg"), ""), (dict(method="exact"), ""),
    ],
)
@pytest.mark.filterwarnings("default")
def test_warnings(options, words):
    p = Quadratic(n=4, k=4, spread=0.)
    call = lambda: hypergradient(p.inner, p.outer, p.theta, p.phi, **options)
    if not words: assert call().warning == ""
    else:
        with pytest.warns(UserWarning, match=words): found = call()
        assert words in found.warning


def test_negative_curvature():
    "The series grows, cg stops; damping mends both."
    w, f, slope = (
        torch.zeros(3, dtype=double, requires_grad=True),
        torch.ones(3, dtype=double, requires_grad=True),
        torch.tensor([1.0, 2.0, -0.5], dtype=double),
    )
    inner, outer = lambda: (w**2 * slope).sum() / 2 - (w * f).sum(), lambda: w.sum()
    assert "diverges" in hypergradient(inner, outer, [w], [f], n_terms=20, gamma=.5).warning
    assert "cg stopped" in hypergradient(inner, outer, [w], [f], "cg", 5).warning
    for options in dict(method="cg", n_terms=3), dict(n_terms=400, gamma=.3):
        found = hypergradient(inner, outer, [w], [f], **options, damping=1.)
        assert not found.warning
        close(found, 1 / (slope + 1))


def test_a_gamma_that_grows_with_the_terms_is_told_of_the_penalty():
    p = Quadratic(n=4, k=4, spread=0.)
    call = lambda gamma: hypergradient(p.inner, p.outer, p.theta, p.phi, "penalty", 6, gamma)
    assert "diverges" in call(3.5).warning and not call(1.).warning


def test_the_account_tells_gamma_and_keeps_the_solution():
    p = Quadratic()
    found = hypergradient(
        p.inner, p.outer, p.theta, p.phi, n_terms=2000, gamma="auto", keep=True
    )
    assert found.gamma == pytest.approx(1, rel=.2) and found.ratio > 1e-2
    v1 = torch.cat(p.theta).detach() - p.t
    close(found.solution, -torch.linalg.solve(p.A, v1), 1e-9)
    assert hypergradient(p.inner, p.outer, p.theta, p.phi, gamma=.3).gamma == .3


def test_scales_of_adam_are_its_steps_for_a_gradient():
    "Without momentum a step is rate P g: the scales of two groups, up to one factor."
    w, b = (torch.randn(n, dtype=double, requires_grad=True) for n in (4, 2))
    target = torch.randn(4, dtype=double)
    loss = lambda: ((w - target) ** 4).sum() + (b - 1).square().sum() * 1e-2
    adam = torch.optim.AdamW(
        [{"params": [w]}, {"params": [b], "lr": .3}], lr=.01, betas=(0., .9), weight_decay=0.,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1.0)
    for _ in range(5): adam.zero_grad(); loss().backward(); adam.step(); schedule.step()
    before = [x.detach().clone() for x in (w, b)]
    adam.zero_grad(); loss().backward(); adam.step()
    steps = [(old - x.detach()) / x.grad for old, x in zip(before, (w, b))]
    for group in adam.param_groups: group["lr"] = 0.  # As at the end of a schedule
    ratio = [s / p for s, p in zip(steps, adam_scales(adam, [w, b]))]
    close([torch.cat(ratio) / ratio[0][0]], torch.ones(6, dtype=double), 1e-9)
    with pytest.raises(ValueError, match="no exp_avg_sq for a tensor of shape"):
        adam_scales(adam, [torch.ones(2, requires_grad=True)])
    with pytest.raises(ValueError, match="no exp_avg_sq"):
        adam_scales(torch.optim.SGD([w], .1), [w])


@pytest.mark.parametrize("product", PRODUCTS)
def test_largest_curvature(product):
    for curvatures in [3., 1., .5], [1., -4., .5], [2.]:
        w, c = (
            torch.ones(len(curvatures), dtype=double, requires_grad=True),
            torch.tensor(curvatures, dtype=double),
        )
        assert largest_curvature(
            lambda: (w**2 * c).sum() / 2, [w], n=60, product=product
        ) == pytest.approx(max(curvatures), rel=1e-4)


# Theta comes back, bit for bit

def test_theta_comes_back_after_an_error():
    theta = [torch.randn(50) * 10.**e for e in range(-3, 4)]
    for t in theta: t.requires_grad_()
    before, calls = [t.detach().clone() for t in theta], []
    phi = torch.ones(3, requires_grad=True)
    def inner():
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return sum((t**2).sum() for t in theta) * phi.sum()
    with pytest.raises(KeyboardInterrupt):
        hypergradient(
            inner, lambda: sum(t.sum() for t in theta), theta, [phi], product="differences"
        )
    assert len(calls) == 3 and all(
        torch.equal(a, b) and b.requires_grad and b.grad is None for a, b in zip(before, theta)
    )
    with pytest.raises(ZeroDivisionError), kept(theta):
        with torch.no_grad(): theta[0].add_(1)
        raise ZeroDivisionError
    assert torch.equal(before[0], theta[0])


def test_half_precision_has_no_differences():
    w, f = (
        torch.ones(2, dtype=torch.bfloat16, requires_grad=True), torch.ones(2, requires_grad=True),
    )
    with pytest.raises(ValueError, match="bfloat16.*float32"):
        hypergradient(lambda: (w * f).sum()**2, lambda: w.sum(), [w], [f], product="differences")
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="autocast"), torch.autocast("cpu", torch.bfloat16):
        hypergradient(lambda: (w * f).sum()**2, lambda: w.sum(), [w], [f], product="differences")


# A T5, whose attention has no second derivative unless the engine takes care

@pytest.fixture(scope="module")
def t5():
    from transformers import T5Config, T5ForConditionalGeneration
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=32, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.1,
            decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )
    ).eval()
    prefix = torch.randn(3, 8, requires_grad=True)
    ids, labels, ids2, labels2 = (torch.randint(2, 32, (2, n)) for n in (5, 3, 5, 3))
    def embedded(prefix):
        return torch.cat([prefix.expand(2, -1, -1), model.get_input_embeddings()(ids)], 1)
    inner = lambda: model(inputs_embeds=embedded(prefix), labels=labels).loss
    outer = lambda: model(input_ids=ids2, labels=labels2).loss
    return types.SimpleNamespace(
        model=model, prefix=prefix, embedded=embedded, labels=labels, inner=inner, outer=outer,
        outer_ids=ids2, outer_labels=labels2,
    )


def test_t5_runs_with_its_default_attention(t5):
    assert t5.model.config._attn_implementation == "sdpa"
    flash = torch.backends.cuda.flash_sdp_enabled()
    (found,) = hypergradient(
        t5.inner, t5.outer, t5.model.parameters(), [t5.prefix], n_terms=2, gamma=1e-3
    )
    assert found.shape == t5.prefix.shape and found.isfinite().all() and found.any()
    assert (
        all(p.grad is None for p in [*t5.model.parameters(), t5.prefix])
        and torch.backends.cuda.flash_sdp_enabled() == flash
    )


@pytest.mark.parametrize("method", ["neumann", "identity"])
def test_differences_on_a_t5(t5, method):
    """The error that the two products may have against each other, in single precision; and it
    is not zero."""
    exact, near = (
        hypergradient(
            t5.inner, t5.outer, t5.model.parameters(), [t5.prefix], method, 1, 0.01, product
        )[0]
        for product in PRODUCTS
    )
    assert 0 < (exact - near).norm() < 3e-3 * exact.norm()


def test_one_dropout_mask_for_all_evaluations(t5):
    theta, fixed = list(t5.model.parameters()), [torch.ones_like(p) for p in t5.model.parameters()]
    outer = lambda: sum((p * w).sum() for p, w in zip(theta, fixed)) / 100  # draws nothing
    t5.model.train()
    try:
        found = []
        for product in PRODUCTS:
            torch.manual_seed(3)
            found.append(
                hypergradient(t5.inner, outer, theta, [t5.prefix], "neumann", 1, 0.01, product)[0]
            )
        assert (found[0] - found[1]).norm() < 1e-2 * found[0].norm()
    finally: t5.model.eval()


def test_differences_keep_a_compiled_model_and_double_backward_says_what_to_do(t5):
    exact = hypergradient(t5.inner, t5.outer, t5.model.parameters(), [t5.prefix], gamma=.01)[0]
    compiled = torch.compile(t5.model, backend="aot_eager")
    inner = lambda: compiled(inputs_embeds=t5.embedded(t5.prefix), labels=t5.labels).loss
    near = hypergradient(
        inner, t5.outer, t5.model.parameters(), [t5.prefix], gamma=0.01, product="differences"
    )[0]
    assert (exact - near).norm() < 3e-3 * exact.norm()
    with pytest.raises(ValueError, match="take product 'differences'"):
        hypergradient(inner, t5.outer, t5.model.parameters(), [t5.prefix])


def test_checkpointing(t5):
    plain = hypergradient(t5.inner, t5.outer, t5.model.parameters(), [t5.prefix], gamma=.01)[0]
    t5.model.gradient_checkpointing_enable(dict(use_reentrant=False)); t5.model.train()
    parts = [
        (m, name)
        for m in t5.model.modules()
        for name in ("p", "dropout")
        if isinstance(getattr(m, name, None), float)
    ]
    for m, name in parts: setattr(m, name, 0.)
    try:
        for product, tolerance in ("exact", 1e-5), ("differences", 3e-3):
            found = hypergradient(
                t5.inner, t5.outer, t5.model.parameters(), [t5.prefix], gamma=0.01, product=product
            )[0]
            assert (plain - found).norm() < tolerance * plain.norm()
    finally:
        t5.model.gradient_checkpointing_disable(); t5.model.eval()
        for m, name in parts: setattr(m, name, .1)


def test_dropout_is_the_callers(t5):
    call = lambda: hypergradient(t5.inner, t5.outer, t5.model.parameters(), [t5.prefix])[0]
    assert torch.equal(call(), call())  # eval mode
    t5.model.train()
    try:
        torch.manual_seed(1); one = call()
        torch.manual_seed(1); same = call()
        torch.manual_seed(2); other = call()
        assert t5.model.training and torch.equal(one, same) and not torch.allclose(one, other)
    finally: t5.model.eval()


def test_t5_against_dense_matrices(t5, monkeypatch):
    """Neumann and exact on some parameters of the T5, in double precision, against matrices from
    torch.autograd.functional."""
    from torch.autograd.functional import hessian, jacobian
    from torch.func import functional_call
    from transformers.models.t5.modeling_t5 import T5LayerNorm
    def norm(self, x):
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )
    monkeypatch.setattr(T5LayerNorm, "forward", norm)  # the original falls back to single precision
    model = t5.model.double()
    try:
        prefix = t5.prefix.detach().double().requires_grad_()
        inner = lambda: model(inputs_embeds=t5.embedded(prefix), labels=t5.labels).loss
        named = {
            n: p
            for n, p in model.named_parameters()
            if "SelfAttention.q" in n or "final_layer_norm" in n
        }
        sizes = [p.numel() for p in named.values()]
        def loss(flat, pre):
            parts = {n: x.reshape(p.shape) for (n, p), x in zip(named.items(), flat.split(sizes))}
            return functional_call(
                model, parts, kwargs=dict(inputs_embeds=t5.embedded(pre), labels=t5.labels)
            ).loss
        flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
        with sdpa_kernel(SDPBackend.MATH):
            H = hessian(lambda f: loss(f, prefix.detach()), flat)
            mixed = jacobian(
                lambda pre: jacobian(lambda f: loss(f, pre), flat, create_graph=True),
                prefix.detach(),
            )
        v1 = torch.cat([v.reshape(-1) for v in grad(t5.outer(), list(named.values()))])
        E, gamma, damping = (
            torch.eye(len(flat), dtype=double), 1 / torch.linalg.eigvalsh(H).abs().max(),
            2 * torch.linalg.eigvalsh(H).abs().max(),
        )
        def check(v2, tolerance, **options):
            expected = torch.einsum("i,ijk->jk", v2, mixed).reshape(-1)
            close(
                hypergradient(
                    inner, t5.outer, named.values(), [prefix], gamma=float(gamma), **options
                ),
                expected, tolerance,
            )
        for M in 0, 1, 5:
            series = (
                -gamma * sum(torch.linalg.matrix_power(E - gamma * H, m) for m in range(M + 1)) @ v1
            )
            check(series, 1e-12, n_terms=M)
            check(series, 1e-6, n_terms=M, product="differences")
            check(-gamma * (M + 1) * v1, 1e-12, method="identity", n_terms=M)
        solved = -torch.linalg.solve(H + damping * E, v1)
        check(solved, 1e-12, method="exact", damping=float(damping))
        check(solved, 1e-12, method="cg", n_terms=200, damping=float(damping))
        with sdpa_kernel(SDPBackend.MATH):
            check_t5_unrolled(loss, t5, named, prefix, flat, sizes, inner, float(gamma))
    finally: model.float()


def check_t5_unrolled(loss, t5, named, prefix, flat, sizes, inner, gamma):
    "Two steps and the way back, against autograd through both."
    from torch.func import functional_call
    def parts(x): return {n: y.reshape(p.shape) for (n, p), y in zip(named.items(), x.split(sizes))}
    w = flat.clone().requires_grad_()
    for _ in range(2): w = w - gamma * grad(loss(w, prefix), w, create_graph=True)[0]
    batch = dict(input_ids=t5.outer_ids, labels=t5.outer_labels)
    expected = grad(functional_call(t5.model, parts(w), kwargs=batch).loss, prefix)[0].reshape(-1)
    close(
        hypergradient(inner, t5.outer, named.values(), [prefix], "unrolled", 2, gamma), expected,
        1e-12,
    )


# The picture of the series

def errors_of(figure):
    "Return the relative errors that a picture shows, and the way of the sums on the left."
    way, how_far = figure.axes
    along, across = way.lines[1].get_data()
    return how_far.lines[0].get_ydata(), torch.tensor(along), torch.tensor(across)


def test_partial_sums_are_the_series():
    p = Quadratic()
    sums = partial_sums(p.inner, p.outer, p.theta, p.phi, .3, 6)
    assert len(sums) == 7
    for M, found in enumerate(sums): close(found, p.answer(p.series(M, .3)))


@pytest.mark.parametrize(
    "gamma, says", [(1e-5, "does nothing"), (0.5, "no warning"), (2.3, "it diverges")]
)
def test_the_picture_shows_the_errors_of_the_series(gamma, says):
    p = Quadratic(k=2)
    exact = p.answer(torch.linalg.inv(p.A))
    expected = [
        ((p.answer(p.series(M, gamma)) - exact).norm() / exact.norm()).item() for M in range(13)
    ]
    figure = series_picture(p.inner, p.outer, p.theta, p.phi, gamma, 12)
    errors, along, across = errors_of(figure)
    assert errors == pytest.approx(expected, rel=1e-9)
    # phi has two numbers: the page loses nothing
    assert ((along - 1)**2 + across**2).sqrt().tolist() == pytest.approx(expected, rel=1e-9)
    title = figure.get_suptitle()
    assert (
        title.startswith(f"γ = {gamma:.2g}, M = 12: error {expected[-1]:.2g}\n") and says in title
    )


def test_the_explorer_draws_what_its_sliders_say():
    p = Quadratic()
    log_gamma, M, _ = (box := series_explorer(p.inner, p.outer, p.theta, p.phi, n_terms=3)).children
    def is_drawn():
        expected = series_picture(p.inner, p.outer, p.theta, p.phi, 10**log_gamma.value, M.value)
        return box.result.get_suptitle() == expected.get_suptitle()
    # the largest curvature is 1, the border 2
    assert is_drawn() and M.value == 3 and abs(log_gamma.value - .25) < .02
    first = box.result
    log_gamma.value = -1.
    assert is_drawn() and box.result is not first and "γ = 0.1, M = 3" in box.result.get_suptitle()
    M.value = 0
    assert is_drawn() and "γ = 0.1, M = 0" in box.result.get_suptitle()
    log_gamma.value, M.value = log_gamma.max, M.max
    assert is_drawn() and "it diverges" in box.result.get_suptitle()


def test_differences_see_half_precision_inside_the_loss():
    "Also where the loss opens autocast itself, or casts by hand."
    w, x = torch.ones(3, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    def opened():
        with torch.autocast("cpu", torch.bfloat16): return ((w @ x).float() ** 2).sum()
    def cast(): return ((w.to(torch.float16) @ x.to(torch.float16)).float() ** 2).sum()
    def outer(): return (w ** 2).sum()
    for inner in (opened, cast):
        with pytest.raises(ValueError, match="differences.*float16"):
            hypergradient(inner, outer, [w], [x], gamma=.1, product="differences")
        assert hypergradient(inner, outer, [w], [x], gamma=.1, product="exact")[0].isfinite().all()
    assert (
        hypergradient(
            lambda: ((w @ x) ** 2).sum(), outer, [w], [x], gamma=0.1, product="differences"
        )[0]
        .isfinite()
        .all()
    )
