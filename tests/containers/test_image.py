"""What the image is made of."""

import pytest

from containers.compose import IMAGE, build, docker, inspect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
async def image() -> None:
    await build()


async def test_it_runs_as_nobody_who_may_do_anything() -> None:
    assert (await inspect(IMAGE))["Config"]["User"] == "10001:10001"
    asked = await docker(
        "run", "--rm", "--entrypoint=python", IMAGE, "-c", "import os; print(os.getuid(), os.getgid())"
    )
    assert asked == "10001 10001"


async def test_it_needs_no_shell_no_network_and_nothing_to_write_to() -> None:
    without = ("run", "--rm", "--read-only", "--network=none", "--cap-drop=ALL", "--volume=/dev/null:/bin/sh:ro")
    assert "migrate" in await docker(*without, IMAGE, "--help")
    with pytest.raises(AssertionError, match="docker run"):
        await docker(*without, "--entrypoint=/bin/sh", IMAGE, "-c", "true")


async def test_it_is_the_base_and_one_layer_that_is_not_large(capsys) -> None:
    layers = (await docker("history", "--human=false", "--format={{.Size}} {{.CreatedBy}}", IMAGE)).splitlines()
    # The newest comes first.
    ours = next(int(layer.split()[0]) for layer in layers if "COPY" in layer)
    whole = (await inspect(IMAGE))["Size"]
    with capsys.disabled():
        told = f"image: {whole / 1e6:.0f} MB, of which Waybill and its dependencies {ours / 1e6:.0f} MB"
        print(f"\n{told}")  # noqa: T201 - what it came to is for people
    assert ours < 200e6


async def test_it_tells_no_secret_and_has_no_more_than_the_package() -> None:
    told = await docker("history", "--no-trunc", "--format={{.CreatedBy}}", IMAGE)
    told += str((await inspect(IMAGE))["Config"])
    for word in ("password", "secret", "token", "api_key", "postgresql://"):
        assert word not in told.lower()
    look = "import glob; print(*glob.glob('/opt/**/.env*', recursive=True, include_hidden=True))"
    assert await docker("run", "--rm", "--entrypoint=python", IMAGE, "-c", look) == ""
