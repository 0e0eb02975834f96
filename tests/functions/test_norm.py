"""Normalisation: against NumPy in float64, PyTorch and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.test_util import check_grads

from jcnn import batch_norm, group_norm, layer_norm

pytestmark = [
    pytest.mark.usefixtures("strict_promotion"),
    pytest.mark.cover(2),
]

DTYPES = ["float32", "bfloat16", "float64"]
SHAPES = [(6, 3), (4, 5, 3), (2, 3, 2, 4, 3)]
EPSILON = 1e-5


def _tolerance(dtype, ratio=1.0):
    """Of a normalised value of size 1 to 4, computed in float32 or wider.

    The subtraction of the mean enlarges its error by `ratio`, the mean over the
    standard deviation; a dozen roundings in all. bfloat16 rounds the result once.
    """
    wide = jnp.finfo("float64" if dtype == "float64" else "float32").eps
    rounded = jnp.finfo(dtype).eps if dtype == "bfloat16" else 0
    return float(4 * (12 * max(ratio, 1.0) * wide + rounded))


def _normal(rng, shape, dtype="float32", *, mean=0.5, std=1.5):
    return jnp.asarray(mean + std * rng.normal(size=shape), dtype)


def _wide(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def _per_channel(rng, channels=3, dtype="float32"):
    """scale, bias, mean and var, all of them random."""
    scale, bias, mean = (_normal(rng, channels, dtype) for _ in range(3))
    return scale, bias, mean, jnp.asarray(rng.uniform(0.5, 2, channels), dtype)


def _normalised(x, axes, epsilon=EPSILON):
    """From the definition, in float64."""
    mean = x.mean(axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + epsilon)


def _close(got, expected, dtype="float32", ratio=1.0):
    assert got.shape == expected.shape and got.dtype == dtype
    tolerance = _tolerance(dtype, ratio)
    got = np.asarray(got, np.float64)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def _torch():
    torch = pytest.importorskip("torch")
    return torch, torch.nn.functional


def _to_torch(x):
    """Channels second, as PyTorch has them."""
    torch, _ = _torch()
    x = np.asarray(x)
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim > 1 else x)
    return torch.tensor(x, requires_grad=True)


def _from_torch(t):
    x = t.detach().numpy()
    return np.moveaxis(x, 1, -1) if x.ndim > 1 else x


# --- batch_norm ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_in_training_is_its_definition(shape, dtype, rng):
    with jax.enable_x64(dtype == "float64"):
        wide = "float64" if dtype == "float64" else "float32"
        x = _normal(rng, shape, dtype)
        scale, bias, mean, var = _per_channel(rng, dtype=wide)
        normalise = jax.jit(partial(batch_norm, train=True, momentum=0.8))
        y, new_mean, new_var = normalise(x, scale, bias, mean, var)
        axes = tuple(range(x.ndim - 1))
        x64, scale, bias, mean, var = _wide(x, scale, bias, mean, var)
        _close(y, _normalised(x64, axes) * scale + bias, dtype)
        _close(new_mean, 0.8 * mean + 0.2 * x64.mean(axes), wide)
        _close(new_var, 0.8 * var + 0.2 * x64.var(axes), wide)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_out_of_training_uses_the_running_statistics(shape, dtype, rng):
    with jax.enable_x64(dtype == "float64"):
        wide = "float64" if dtype == "float64" else "float32"
        x = _normal(rng, shape, dtype)
        scale, bias, mean, var = _per_channel(rng, dtype=wide)
        normalise = jax.jit(partial(batch_norm, train=False))
        y, same_mean, same_var = normalise(x, scale, bias, mean, var)
        assert np.array_equal(same_mean, mean) and np.array_equal(same_var, var)
        x64, scale, bias, mean, var = _wide(x, scale, bias, mean, var)
        expected = (x64 - mean) / np.sqrt(var + EPSILON) * scale + bias
        _close(y, expected, dtype)


def test_float64_is_not_narrowed_by_running_statistics_in_float32(rng):
    with jax.enable_x64(True):
        x = _normal(rng, (5, 3), "float64")
        _, _, mean, var = _per_channel(rng)
        y, *_ = batch_norm(x, None, None, mean, var, train=False)
        x64, mean, var = _wide(x, mean, var)
        _close(y, (x64 - mean) / np.sqrt(var + EPSILON), "float64")


@pytest.mark.cover(1)
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_in_training_is_torchs(shape, momentum, rng):
    _, functional = _torch()
    x = _normal(rng, shape)
    scale, bias, mean, var = _per_channel(rng)
    # PyTorch's momentum is the weight of the new, and its running variance unbiased.
    their_mean, their_var = (_to_torch(a).detach() for a in (mean, var))
    expected = functional.batch_norm(
        _to_torch(x),
        their_mean,
        their_var,
        _to_torch(scale),
        _to_torch(bias),
        training=True,
        momentum=1 - momentum,
        eps=1e-3,
    )
    options = {"train": True, "momentum": momentum, "epsilon": 1e-3}
    y, new_mean, new_var = batch_norm(x, scale, bias, mean, var, **options)
    _close(y, _from_torch(expected))
    _close(new_mean, their_mean.numpy())
    count = np.prod(shape[:-1])
    kept = momentum * np.asarray(var)
    _close(new_var, kept + (their_var.numpy() - kept) * (count - 1) / count)


@pytest.mark.cover(1)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_batch_norm_are_torchs(shape, train, rng):
    _, functional = _torch()
    x = _normal(rng, shape)
    scale, bias, mean, var = _per_channel(rng)
    theirs = [_to_torch(a) for a in (x, scale, bias)]
    y = functional.batch_norm(
        theirs[0],
        *(_to_torch(a).detach() for a in (mean, var)),
        *theirs[1:],
        training=train,
    )
    cotangent = jnp.asarray(rng.normal(size=shape), jnp.float32)
    y.backward(_to_torch(cotangent))
    normalise = jax.jit(lambda *args: batch_norm(*args, mean, var, train=train)[0])
    _, vjp = jax.vjp(normalise, x, scale, bias)
    for ours, t in zip(vjp(cotangent), theirs):
        # A parameter's gradient is a sum over the batch.
        expected = _from_torch(t.grad)
        _close(ours / x.size, expected / x.size)
        _close(ours, expected, ratio=x.size)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("train", [True, False])
def test_derivatives_of_batch_norm_are_finite_differences(train, mode, rng):
    with jax.enable_x64(True):
        x = _normal(rng, (4, 3, 2), "float64")
        scale, bias, mean, var = _per_channel(rng, 2, "float64")
        check_grads(
            jax.jit(
                lambda *args: jnp.sin(batch_norm(*args, mean, var, train=train)[0])
            ),
            (x, scale, bias),
            order=2,
            modes=(mode,),
            atol=1e-5,
            rtol=1e-5,
        )


def test_running_statistics_carry_no_gradient_of_the_batch(rng):
    x = _normal(rng, (5, 3))
    scale, bias, mean, var = _per_channel(rng)
    weight = _normal(rng, 3)

    def running(x, mean, var):
        _, mean, var = batch_norm(x, scale, bias, mean, var, train=True, momentum=0.7)
        return weight @ mean + weight @ (3 * var)

    to_x, to_mean, to_var = jax.grad(running, argnums=(0, 1, 2))(x, mean, var)
    assert not to_x.any()
    np.testing.assert_allclose(to_mean, 0.7 * weight, rtol=1e-6)
    np.testing.assert_allclose(to_var, 2.1 * weight, rtol=1e-6)


@pytest.mark.parametrize("given", ["both", "scale", "bias", "neither"])
def test_scale_and_bias_may_be_left_away(given, rng):
    x = _normal(rng, (5, 3))
    scale, bias, mean, var = _per_channel(rng)
    scale = scale if given in ("both", "scale") else None
    bias = bias if given in ("both", "bias") else None
    y, *_ = batch_norm(x, scale, bias, mean, var, train=True)
    expected = _normalised(np.asarray(x, np.float64), 0)
    factor = 1 if scale is None else np.asarray(scale)
    _close(y, expected * factor + (0 if bias is None else np.asarray(bias)))


def test_statistics_of_bfloat16_are_those_of_float32(rng):
    # A sum of 4,096 values of about 3 in bfloat16 would stop at 1,024.
    x = _normal(rng, (4096, 2), "bfloat16", mean=3)
    zero, one = jnp.zeros(2), jnp.ones(2)
    options = {"train": True, "momentum": 0.0}
    y, mean, var = batch_norm(x, None, None, zero, one, **options)
    (x64,) = _wide(x)
    assert y.dtype == jnp.bfloat16 and mean.dtype == var.dtype == jnp.float32
    _close(mean, x64.mean(0))
    _close(var, x64.var(0))
    _close(y, _normalised(x64, 0), "bfloat16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_running_statistics_keep_their_dtype(dtype, rng):
    x = _normal(rng, (5, 3))
    _, _, mean, var = _per_channel(rng, dtype=dtype)
    _, new_mean, new_var = batch_norm(x, None, None, mean, var, train=True)
    assert new_mean.dtype == new_var.dtype == dtype
    expected = 0.9 * np.asarray(mean, np.float64) + 0.1 * _wide(x)[0].mean(0)
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(new_mean, np.float64), expected, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_a_large_mean_does_not_cancel(size, rng):
    x = _normal(rng, (64, 3), mean=size, std=1)
    zero, one = jnp.zeros(3), jnp.ones(3)
    (x64,) = _wide(x)
    y, _, var = batch_norm(x, None, None, zero, one, train=True, momentum=0.0)
    # mean(x^2) - mean^2 would be wrong by about 6 where the mean is 1e4.
    _close(y, _normalised(x64, 0), ratio=size)
    np.testing.assert_allclose(var, x64.var(0), rtol=1e-4)
    _close(layer_norm(x), _normalised(x64, 1), ratio=size)
    _close(group_norm(x, num_groups=1), _normalised(x64, 1), ratio=size)


def test_a_constant_batch_gives_the_bias_and_finite_gradients(rng):
    values = _normal(rng, 3)
    scale, bias, mean, var = _per_channel(rng)

    def normalise(x):
        return batch_norm(x, scale, bias, mean, var, train=True)[0]

    # Four equal values, a power of two, have their mean without rounding.
    x = jnp.tile(values, (4, 1))
    y, vjp = jax.vjp(normalise, x)
    assert np.array_equal(y, np.tile(bias, (4, 1)))
    assert np.isfinite(vjp(_normal(rng, (4, 3)))[0]).all()


@pytest.mark.parametrize("nested", [False, True])
def test_mapped_axes_share_the_statistics_of_the_whole_batch(nested, rng):
    x = _normal(rng, (8, 5, 3))
    scale, bias, mean, var = _per_channel(rng)
    names = ("outer", "inner") if nested else "inner"

    def normalise(x):
        return batch_norm(x, scale, bias, mean, var, train=True, axis_name=names)

    mapped = jax.vmap(normalise, axis_name="inner")
    parts = x.reshape(4, 2, 5, 3)
    if nested:
        mapped = jax.vmap(mapped, axis_name="outer")
        parts = x.reshape(2, 2, 2, 5, 3)
    y, *running = mapped(parts)
    whole, *expected = batch_norm(x, scale, bias, mean, var, train=True)
    _close(y.reshape(x.shape), np.asarray(whole))
    for got, one in zip(running, expected):
        for copy in got.reshape(-1, 3):
            _close(copy, np.asarray(one))


def test_shards_share_the_statistics_of_the_whole_batch(rng):
    x = _normal(rng, (6, 5, 3))
    scale, bias, mean, var = _per_channel(rng)
    weight = _normal(rng, x.shape)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = PartitionSpec("data"), PartitionSpec()

    def loss(normalise):
        return lambda x, scale: (normalise(x, scale)[0] * weight).sum()

    def on_one(x, scale):
        return batch_norm(x, scale, bias, mean, var, train=True)

    def on_a_shard(x, scale):
        return batch_norm(x, scale, bias, mean, var, train=True, axis_name="data")

    # out_specs claims that all shards hold the same running statistics; it is checked.
    sharded = jax.shard_map(
        on_a_shard,
        mesh=mesh,
        in_specs=(split, whole),
        out_specs=(split, whole, whole),
    )
    for got, expected in zip(sharded(x, scale), on_one(x, scale)):
        _close(got, np.asarray(expected))
    grads = jax.jit(jax.grad(loss(sharded), argnums=(0, 1)))(x, scale)
    expected = jax.grad(loss(on_one), argnums=(0, 1))(x, scale)
    for got, one in zip(grads, expected):
        _close(got, np.asarray(one), ratio=x.size)


def test_batch_norm_of_none_is_refused_in_training_only():
    zero, one = jnp.zeros(3), jnp.ones(3)
    x = jnp.zeros((0, 4, 3))
    with pytest.raises(ValueError, match=r"x must not be empty.*\(0, 4, 3\)"):
        batch_norm(x, one, zero, zero, one, train=True)
    y, *_ = batch_norm(x, one, zero, zero, one, train=False)
    assert y.shape == x.shape


@pytest.mark.parametrize("name", ["scale", "bias", "mean", "var"])
@pytest.mark.parametrize("shape", [(2,), (1,), (), (1, 3)])
@pytest.mark.parametrize("train", [True, False])
def test_parameters_of_batch_norm_are_one_per_channel(name, shape, train):
    arguments = dict.fromkeys(("scale", "bias", "mean", "var"), jnp.ones(3))
    arguments[name] = jnp.ones(shape)
    with pytest.raises(ValueError, match=rf"{name} must be of shape \(3,\)"):
        batch_norm(jnp.ones((2, 3)), **arguments, train=train)


# --- layer_norm ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [-1, 0, 1, (1, 2), (-1, 1), [0, 2]])
def test_layer_norm_is_its_definition(axis, dtype, rng):
    with jax.enable_x64(dtype == "float64"):
        x = _normal(rng, (4, 5, 3), dtype)
        scale, bias, *_ = _per_channel(rng, dtype=dtype)
        y = jax.jit(partial(layer_norm, axis=axis, epsilon=1e-3))(x, scale, bias)
        x64, scale, bias = _wide(x, scale, bias)
        axes = axis if isinstance(axis, int) else tuple(axis)
        _close(y, _normalised(x64, axes, 1e-3) * scale + bias, dtype)


@pytest.mark.parametrize("shape", [(5, 3), (5, 1), (4, 1, 3), (4, 5, 3), ()])
def test_scale_and_bias_of_layer_norm_broadcast(shape, rng):
    x = _normal(rng, (4, 5, 3))
    scale, bias = _normal(rng, shape), _normal(rng, shape)
    expected = _normalised(*_wide(x), 2) * np.asarray(scale) + np.asarray(bias)
    _close(layer_norm(x, scale, bias), expected)
    _close(layer_norm(x, None, bias), _normalised(*_wide(x), 2) + np.asarray(bias))
    _close(layer_norm(x, scale), _normalised(*_wide(x), 2) * np.asarray(scale))


@pytest.mark.parametrize("axes", [(2,), (1, 2)])
def test_layer_norm_and_its_gradients_are_torchs(axes, rng):
    torch, functional = _torch()
    shape = tuple((4, 5, 3)[a] for a in axes)
    arrays = _normal(rng, (4, 5, 3)), _normal(rng, shape), _normal(rng, shape)
    theirs = [torch.tensor(np.asarray(a), requires_grad=True) for a in arrays]
    y = functional.layer_norm(theirs[0], shape, *theirs[1:])
    cotangent = _normal(rng, (4, 5, 3))
    y.backward(torch.tensor(np.asarray(cotangent)))
    ours, vjp = jax.vjp(lambda *args: layer_norm(*args, axis=axes), *arrays)
    _close(ours, y.detach().numpy())
    for got, t in zip(vjp(cotangent), theirs):
        _close(got, t.grad.numpy(), ratio=10)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_derivatives_of_layer_norm_are_finite_differences(mode, rng):
    with jax.enable_x64(True):
        arrays = [_normal(rng, shape, "float64") for shape in ((3, 4), (4,), (4,))]
        check_grads(
            jax.jit(lambda *args: jnp.sin(layer_norm(*args))),
            arrays,
            order=2,
            modes=(mode,),
            atol=1e-5,
            rtol=1e-5,
        )


def test_float64_is_kept_beside_parameters_in_float32(rng):
    with jax.enable_x64(True):
        x = _normal(rng, (4, 6), "float64")
        scale, bias, *_ = _per_channel(rng, 6)
        x64, *parameters = _wide(x, scale, bias)
        expected = _normalised(x64, 1) * parameters[0] + parameters[1]
        _close(layer_norm(x, scale, bias), expected, "float64")


# --- group_norm ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("spatial", [(), (5,), (2, 3, 2)])
def test_group_norm_is_the_loop_over_examples_and_groups(spatial, groups, dtype, rng):
    if groups == 6 and not spatial:
        pytest.skip("a group of one value has no deviation")
    with jax.enable_x64(dtype == "float64"):
        x = _normal(rng, (2, *spatial, 6), dtype)
        scale, bias, *_ = _per_channel(rng, 6, dtype)
        normalise = jax.jit(partial(group_norm, num_groups=groups, epsilon=1e-3))
        y = normalise(x, scale, bias)
        x64, scale, bias = _wide(x, scale, bias)
        expected = np.empty_like(x64)
        for example in range(2):
            for channels in np.split(np.arange(6), groups):
                expected[example][..., channels] = _normalised(
                    x64[example][..., channels], None, 1e-3
                )
        _close(y, expected * scale + bias, dtype)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_and_its_gradients_are_torchs(groups, rng):
    _, functional = _torch()
    arrays = _normal(rng, (3, 4, 5, 6)), _normal(rng, 6), _normal(rng, 6)
    theirs = [_to_torch(a) for a in arrays]
    y = functional.group_norm(theirs[0], groups, *theirs[1:])
    cotangent = _normal(rng, (3, 4, 5, 6))
    y.backward(_to_torch(cotangent))
    ours, vjp = jax.vjp(lambda *args: group_norm(*args, num_groups=groups), *arrays)
    _close(ours, _from_torch(y))
    for got, t in zip(vjp(cotangent), theirs):
        _close(got, _from_torch(t.grad), ratio=arrays[0].size)


def test_a_group_for_each_channel_is_torchs_instance_norm(rng):
    _, functional = _torch()
    x = _normal(rng, (3, 4, 5, 6))
    expected = functional.instance_norm(_to_torch(x))
    _close(group_norm(x, num_groups=6), _from_torch(expected))


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_derivatives_of_group_norm_are_finite_differences(mode, rng):
    with jax.enable_x64(True):
        arrays = [_normal(rng, shape, "float64") for shape in ((2, 3, 4), (4,), (4,))]
        check_grads(
            jax.jit(lambda *args: jnp.sin(group_norm(*args, num_groups=2))),
            arrays,
            order=2,
            modes=(mode,),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("groups", [0, -1, 2, 4])
def test_groups_must_divide_the_channels(groups):
    with pytest.raises(ValueError, match=f"num_groups.*{groups}"):
        group_norm(jnp.ones((2, 5, 3)), num_groups=groups)


@pytest.mark.parametrize("groups", [1.0, None, True])
def test_groups_must_be_an_integer(groups):
    with pytest.raises(TypeError, match="num_groups must be an integer"):
        group_norm(jnp.ones((2, 5, 3)), num_groups=groups)


@pytest.mark.parametrize("name", ["scale", "bias"])
def test_parameters_of_group_norm_are_one_per_channel(name):
    with pytest.raises(ValueError, match=rf"{name} must be of shape \(4,\)"):
        group_norm(jnp.ones((2, 5, 4)), num_groups=2, **{name: jnp.ones(2)})


# --- all of them ---


def _batch_norm(x):
    zero = jnp.zeros(x.shape[-1:])
    return batch_norm(x, None, None, zero, zero + 1, train=True)[0]


_NORMS = [_batch_norm, layer_norm, lambda x: group_norm(x, num_groups=2)]


@pytest.mark.parametrize("norm", _NORMS)
def test_jit_and_vmap_change_nothing(norm, rng):
    x = _normal(rng, (3, 5, 2, 4))
    expected = np.stack([norm(part) for part in x])
    _close(jax.vmap(norm)(x), expected)
    _close(jax.jit(norm)(x[0]), expected[0])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
@pytest.mark.parametrize("norm", _NORMS)
def test_integers_are_refused(norm, dtype):
    with pytest.raises(TypeError, match=f"x must be floating point, got {dtype}"):
        norm(jnp.ones((2, 3, 4), dtype))


@pytest.mark.parametrize("norm", [layer_norm, lambda x: group_norm(x, num_groups=2)])
def test_examples_do_not_see_one_another(norm, rng):
    x = _normal(rng, (3, 5, 4))
    changed = x.at[1].set(_normal(rng, (5, 4)))
    before, after = norm(x), norm(changed)
    assert np.array_equal(before[::2], after[::2])
    assert not np.allclose(before[1], after[1])
    assert norm(x[:0]).shape == (0, 5, 4)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_batch_norm_refuses_momentum_out_of_range(momentum):
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    message = f"momentum must be from 0 to 1, got {momentum}"
    for train in (False, True):
        with pytest.raises(ValueError, match=message):
            batch_norm(
                np.ones((2, 3), np.float32),
                *(one, zero, zero, one),
                train=train,
                momentum=momentum,
            )


def test_batch_norm_refuses_momentum_that_is_no_number():
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    with pytest.raises(TypeError, match="momentum must be a number, got '0.9'"):
        x = np.ones((2, 3), np.float32)
        batch_norm(x, one, zero, zero, one, train=True, momentum="0.9")  # pyright: ignore


def test_momentum_may_be_traced(rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)

    def mean_after(momentum):
        return batch_norm(x, one, zero, one, one, train=True, momentum=momentum)[1]

    np.testing.assert_allclose(jax.jit(mean_after)(0.75), mean_after(0.75), rtol=1e-6)


@pytest.mark.parametrize(
    "axis, error, message",
    [
        (3, ValueError, r"axis must be one or more from -3 to 2 .*\(2, 4, 3\), got 3"),
        (-4, ValueError, "axis must be one or more from -3 to 2 .*got -4"),
        ((), ValueError, r"axis must be one or more .*got \(\)"),
        ((1, 1), ValueError, r"axis must name each axis of x once, got \(1, 1\)"),
        ((-1, 2), ValueError, r"axis must name each axis of x once, got \(-1, 2\)"),
        (1.5, TypeError, "axis must be an integer, got 1.5"),
        ("channels", TypeError, "axis must be an integer, got '"),
        (None, TypeError, "axis must be an integer, got None"),
    ],
)
def test_layer_norm_refuses_axes(axis, error, message):
    with pytest.raises(error, match=message):
        layer_norm(np.ones((2, 4, 3), np.float32), axis=axis)


@pytest.mark.parametrize("shape", [(5,), (4, 1, 3), (1, 2, 4, 3), (2, 1)])
@pytest.mark.parametrize("name", ["scale", "bias"])
def test_layer_norm_refuses_parameters_that_do_not_broadcast(name, shape):
    parameter = {name: np.ones(shape, np.float32)}
    message = rf"{name} must be of a shape that broadcasts to x's \(2, 4, 3\)"
    with pytest.raises(ValueError, match=message):
        layer_norm(np.ones((2, 4, 3), np.float32), **parameter)


def test_normalisation_refuses_a_scalar():
    x, c = np.float32(1), np.ones(1, np.float32)
    for normalise in (
        layer_norm,
        partial(group_norm, num_groups=1),
        lambda x: batch_norm(x, c, c, c, c, train=False),
    ):
        with pytest.raises(ValueError, match="x must have channels .*got a scalar"):
            normalise(x)
