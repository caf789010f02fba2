"""The autoencoder: what a codebook does to latents and to gradients, and how much of it is used."""

import itertools
import math
import re

import pytest
import torch
from torch import Tensor

autoencoder = pytest.importorskip("scaffolding.model.autoencoder")

LATENTS = ("none", "linear", "vq")


def make(latent: str, image_shape: tuple[int, ...] = (1, 8, 8)) -> torch.nn.Module:
    torch.manual_seed(2)
    parts = (autoencoder.ConvEncoder(image_shape, [8, 12], 1), autoencoder.ConvDecoder(image_shape, [8, 12], 1))
    model = autoencoder.Autoencoder(*parts, latent, latent_size=3, num_codes=6)
    return model.double()


def images(num: int = 4, shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("latent", LATENTS)
def test_gives_back_images_of_the_same_shape(latent: str) -> None:
    shape = (3, 12, 20)
    model, batch = make(latent, shape), images(2, shape)
    assert model(batch).shape == batch.shape
    size = 12 if latent == "none" else 3
    assert model.encoder(batch).shape == (2, size, 3, 5)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="10x8 cannot be halved 2 times"):
        make("vq", (1, 10, 8))
    with pytest.raises(ValueError, match="'gauss' is none of none, linear, vq"):
        make("gauss")


@pytest.mark.parametrize("latent", LATENTS)
def test_any_encoder_goes_with_any_decoder_of_the_same_map(latent: str) -> None:
    shape = (3, 12, 20)
    encoders = [autoencoder.ConvEncoder(shape, [8, 12], 1), autoencoder.MLPEncoder(shape, [16], 12, 2)]
    decoders = [autoencoder.ConvDecoder(shape, [8, 12], 1), autoencoder.MLPDecoder(shape, [16], 12, 2)]
    for encoder, decoder in itertools.product(encoders, decoders):
        assert encoder.map_shape == tuple(encoder(images(2, shape).float()).shape[1:]) == (12, 3, 5)
        model = autoencoder.Autoencoder(encoder, decoder, latent, latent_size=3, num_codes=6)
        model(images(2, shape).float()).square().sum().backward()
        without = {name for name, part in model.named_parameters() if part.grad is None}
        assert {name for name in without if not name.startswith("encoder.")} == set() or latent == "none"
        assert not without or latent == "vq"  # the choice of a code has no gradient: the loss gives the encoder one
    with pytest.raises(ValueError, match=re.escape("makes maps of (12, 3, 5), and the decoder takes (9, 3, 5)")):
        autoencoder.Autoencoder(encoders[0], autoencoder.MLPDecoder(shape, [16], 9, 2), latent, 3, 6)


def test_codes_are_the_nearest_vectors() -> None:
    quantizer = make("vq").latent
    z = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    z_q, codes = quantizer(z)
    book = quantizer.codebook.weight.detach()
    for b, i, j in itertools.product(range(2), range(4), range(5)):
        distances = [float((z[b, :, i, j] - vector).square().sum()) for vector in book]
        assert int(codes[b, i, j]) == distances.index(min(distances))
        assert torch.equal(z_q[b, :, i, j], book[codes[b, i, j]])


def test_gradients_with_a_codebook_are_those_of_the_paper() -> None:
    """The encoder gets that of the error at z_q, straight through, and of the commitment term; codes their own term."""
    model, batch, beta = make("vq"), images(), 0.25
    seen: dict[str, Tensor] = {}
    model.encoder.register_forward_hook(lambda module, inputs, z_e: seen.update(z_e=z_e) or z_e.retain_grad())
    loss, metrics = autoencoder.AutoencoderLoss(beta)(model, (batch,))
    loss.backward()
    assert metrics.keys() == {"reconstruction", "codebook", "perplexity", "codes_used"}
    z_e, gradient = seen["z_e"].detach(), seen["z_e"].grad
    z_q, codes = model.latent(z_e)
    z_q = z_q.detach()

    def error(vectors: Tensor) -> float:
        with torch.no_grad():
            return float((model.decoder(vectors) - batch).square().mean())

    for index in [(0, 0, 0, 0), (1, 2, 1, 0), (3, 1, 1, 1)]:
        step = torch.zeros_like(z_q)
        step[index] = 1e-5
        numeric = (error(z_q + step) - error(z_q - step)) / 2e-5
        commitment = beta * 2 * float((z_e - z_q)[index]) / z_e.numel()
        assert float(gradient[index]) == pytest.approx(numeric + commitment, rel=1e-6, abs=1e-12)
    expected = torch.zeros_like(model.latent.codebook.weight)
    expected.index_add_(0, codes.flatten(), (2 * (z_q - z_e) / z_e.numel()).movedim(1, -1).flatten(0, 2))
    torch.testing.assert_close(model.latent.codebook.weight.grad, expected)
    assert len(codes.unique()) > 1


@pytest.mark.parametrize("latent", ["none", "linear"])
def test_without_a_codebook_the_loss_is_the_error(latent: str) -> None:
    model, batch = make(latent), images()
    loss, metrics = autoencoder.AutoencoderLoss(0.25)(model, (batch,))
    loss.backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    expected = (model(batch) - batch).square().mean()
    expected.backward()
    assert metrics == {"reconstruction": loss}
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, [parameter.grad for parameter in model.parameters()])


def test_codebook_usage() -> None:
    def usage(codes: list[int], num_codes: int) -> tuple[float, float]:
        values = autoencoder.codebook_usage(torch.tensor(codes), num_codes)
        return float(values["perplexity"]), float(values["codes_used"])

    assert usage([3, 3, 3, 3], 8) == (1, 0.125)
    assert usage([0, 1, 2, 3], 4) == pytest.approx((4, 1))
    assert usage([0, 0, 0, 5], 10) == pytest.approx((math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), 0.2))
