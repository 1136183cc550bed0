"""Run by ColabFold's Python: weight files of AlphaFold-Multimer v3 with random numbers, in the official layout.

``python random_alphafold.py FOLDER`` writes ``FOLDER/params/params_model_{1..5}_multimer_v3.npz``; names and shapes are
those that AlphaFold's own code asks for.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from alphafold.model import config, model
from colabfold.batch import generate_input_feature, mk_mock_template


def _shapes():
    """Every parameter's name and shape, from AlphaFold's code tracing two short chains."""
    chains = ["ACDEFGHIKL", "MNPQRSTVWY"]
    features, _ = generate_input_feature(
        chains, [1, 1], [f">1\n{chain}" for chain in chains], None, [mk_mock_template(chain) for chain in chains],
        is_complex=True, model_type="alphafold2_multimer_v3", max_seq=508,
    )  # fmt: skip
    n = len("".join(chains))
    shapes = {"prev_msa_first_row": (n, 256), "prev_pair": (n, n, 128), "prev_pos": (n, 37, 3)}
    features["prev"] = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    runner = model.RunModel(config.model_config("model_1_multimer_v3"))
    return jax.eval_shape(runner.init, jax.random.PRNGKey(0), features)


def _numbers(name, shape, inputs, random):
    """Random numbers that keep activations near 1: layer norms near the identity, variance one over the inputs."""
    drawn = random.standard_normal(shape, dtype=np.float32)
    if name == "scale":
        return 1 + np.float32(0.1) * drawn
    if name == "weights":
        return drawn / np.float32(max(inputs, 1) ** 0.5)
    return np.float32(0.1) * drawn


def write_weights(folder, seed=0):
    """Write one file and link the other four to it."""
    random = np.random.default_rng(seed)
    arrays = {}
    for scope, parameters in _shapes().items():
        # Parameters of a stack of blocks have one more axis in front.
        stacked = "layer_stack" in scope or "evoformer_iteration" in scope or "extra_msa_stack" in scope
        for name, parameter in parameters.items():
            shape = parameter.shape
            block = shape[1:] if stacked else shape
            arrays[f"{scope}//{name}"] = _numbers(name, shape, block[0] if block else 1, random)
    params = folder / "params"
    params.mkdir(parents=True)
    first = params / "params_model_1_multimer_v3.npz"
    np.savez(first, **arrays)
    for number in (2, 3, 4, 5):
        (params / f"params_model_{number}_multimer_v3.npz").symlink_to(first.name)


if __name__ == "__main__":
    write_weights(Path(sys.argv[1]))
