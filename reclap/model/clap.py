"""The public `Model`: an embedder and zero-shot classifier with metadata, pickling and saving."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reclap.checkpoints import model_folder
from reclap.checkpoints.adapter import Adapter
from reclap.config.ranges import Dtype
from reclap.errors import ReclapError
from reclap.io.files import StrPath
from reclap.model.weights import Weights
from reclap.model.zero_shot import ZeroShotClassifier

if TYPE_CHECKING:
    from reclap.checkpoints.families.assemble import Found

__all__ = ["Model"]


class Model(ZeroShotClassifier):
    """A contrastive language-audio model; `reclap.load` opens one.

    Methods may be called from several threads; calls take turns.

    Parameters
    ----------
    config : ClapConfig
        Front end, towers, heads, prompt template.
    weights : Weights
        Weights in the core.
    tokenizer : Path or None
        File of the tokenizer; without it the model embeds sounds, but no texts.
    source : Path
        Folder or file of the model, for messages.
    threads : int, optional
        Most threads of one call; the processors of this process by default.
    family : str
        Project whose checkpoint it is.
    ignored : mapping of str to str, optional
        Names of tensors that are not used, with the reason.

    Attributes
    ----------
    config : ClapConfig
        Front end, towers, heads, prompt template.
    threads : int
        Most threads of one call.
    logit_scale : float
        Factor from cosines to logits.

    Examples
    --------
    >>> import numpy as np, reclap
    >>> model = reclap.load("mini")
    >>> audio = model.embed_audio(np.zeros(48000), rate=48000)
    >>> text = model.embed_text(["dog bark", "rain"])
    >>> (audio @ text.T).shape
    (1, 2)
    >>> model.save("copy")
    >>> reclap.load("copy").digest == model.digest
    True
    """

    # Pickled state, given the digests; set by `reclap.load`.
    _reduced: Callable[[str, str], tuple[Any, ...]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of `load` and the digests; unpickling loads the model again."""
        if self._reduced is None:
            raise TypeError(f"{self._source}: only models that reclap.load returned can be pickled")
        return self._reduced(self.digest, self.text_digest)

    @classmethod
    def _from_folder(
        cls,
        folder: Path,
        *,
        dtype: Dtype,
        threads: int | None,
        adapter: Adapter | None = None,
        progress: bool = False,
    ) -> "Model":
        """Load a model folder; see `reclap.load`."""
        config = model_folder.read_config(folder)
        read = functools.partial(model_folder.read_parameters, folder)
        weights = Weights(config, folder / model_folder.CONFIG, read, dtype, progress, adapter)
        return cls(config, weights, folder / model_folder.TOKENIZER, folder, threads)

    @classmethod
    def _from_foreign(
        cls,
        source: Path,
        found: "Found",
        *,
        dtype: Dtype = "float32",
        threads: int | None = None,
        tokenizer: Path | None = None,
        adapter: Adapter | None = None,
        progress: bool = False,
    ) -> "Model":
        """Build a model from another project's checkpoint, see `reclap.load`."""
        read = functools.partial(model_folder.match, found.tensors, where=str(source))
        return cls(
            found.config,
            Weights(found.config, source, read, dtype, progress, adapter),
            tokenizer or found.tokenizer,
            source,
            threads,
            family=found.family,
            ignored=found.ignored,
        )

    # ---- Metadata and files -------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Describe the model: source, towers, sizes, front end, tokenizer, threads, digest.

        Returns
        -------
        dict
            Name, source, family, parameters by part, sample rate in Hz, window in seconds, compute
            type, digest, configuration and more.

        Examples
        --------
        >>> import reclap
        >>> about = reclap.load("mini").info()
        >>> about["rate"], about["dim"]
        (32000, 384)
        """
        count = dict.fromkeys(("audio", "text", "audio_head", "text_head", "logit_scale"), 0)
        for name, shape in self._weights.shapes:
            part = name.split(".")[0].replace("_branch", "").replace("_projection", "_head")
            count[part] += math.prod(shape)
        front = self.config.front
        return {
            "name": self.config.name,
            "source": str(self._source),
            "family": self._family,
            "ignored": dict(self._ignored),
            "dim": self.config.dim,
            "parameters": count | {"total": sum(count.values())},
            "window_seconds": front.window_seconds,
            "rate": front.rate,
            "template": self.config.template,
            "tokenizer": self._tokenizer.describe() if self._tokenizer else None,
            "dtype": self._weights.dtype,
            "kernel": self._weights.kernel,
            "threads": self.threads,
            "logit_scale": self.logit_scale,
            "digest": self.digest,
            "adapter": self._weights.adapter,
            "config": self.config.to_json(),
        }

    def save(
        self,
        folder: StrPath,
        format: Literal["reclap", "hf", "laion"] = "reclap",
        *,
        overwrite: bool = False,
    ) -> None:
        """Write the model as a folder that `load` takes, or one with a file that it takes.

        Parameters
        ----------
        folder : path
            Created if absent; in one that holds a model of the same format its files are replaced.
        format : {"reclap", "hf", "laion"}
            Ours; transformers' ClapModel, whose `from_pretrained` gives the same embeddings; or
            ``model.pt``, the checkpoint of LAION-CLAP and ReCLAP that laion_clap's ``load_ckpt``
            takes.
        overwrite : bool
            Replace a config.json of something else, too.

        Raises
        ------
        FileExistsError
            If the folder holds a config.json of something else.
        OSError
            If it cannot be written; what was there before remains.
        FormatError
            If the model does not fit the format, with every reason.
        ReclapError
            If it was loaded in another type than float32, or without the tokenizer that a folder
            of ours holds.
        ValueError
            For another format.
        """
        if format not in ("reclap", "hf", "laion"):
            raise ValueError(f"format is {format!r}, expected reclap, hf or laion")
        values = self._weights.require_exact()
        if not overwrite:
            model_folder.require_own(Path(folder), format)
        tokenizer = self._tokenizer.to_json() if self._tokenizer else None
        if format == "hf":
            from reclap.checkpoints.families import hf_export  # here, because it takes a while

            hf_export.write(Path(folder), self.config, values, tokenizer)
        elif format == "laion":
            from reclap.checkpoints.families import laion_export

            laion_export.write(Path(folder), self.config, values, tokenizer)
        elif tokenizer is None:
            raise ReclapError(
                f"{self._source}: a model folder holds a tokenizer, and there is none beside "
                "it; load it with tokenizer= (--tokenizer), that of its text model"
            )
        else:
            model_folder.save_all(Path(folder), self.config, values, tokenizer)
