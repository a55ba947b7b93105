"""Sections of a recipe: data, what is trained, loss, optimizer, run, evaluation."""

import dataclasses
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from reclap.errors import Errors
from reclap.io.settings import Count, Fraction, Positive, Probability, Settings

__all__ = ["Data", "Eval", "Loss", "Optim", "Run", "Train"]

NotNegative: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]


@dataclasses.dataclass(frozen=True)
class Data(Settings):
    """Section ``[data]``: the manifest, the composition of batches, prefetching.

    Parameters
    ----------
    manifest : str
        See `reclap.io.manifest.read`; a relative path starts at the recipe.
    root : str
        Folder from which relative sound paths start; the manifest's own if empty.
    where : dict of str to list
        Filter of the rows: column names to allowed values.
    batch : int
        Examples in a batch, mixtures included.
    mixtures : int
        Number of mixtures of two sounds of different groups, each pair of groups at most once.
    group : str
        Column of groups: rows of one group sound alike. Without it every row is its own group.
    per_group : int
        Maximum occurrences of a group among unmixed examples, to avoid false negatives in the
        contrastive loss. Groups are then drawn first, and rows within them, so rare groups are as
        frequent as others. 0: no limit, and every row occurs once an epoch.
    original : float
        Probability of the original caption; otherwise one of its rewrites is drawn, with equal
        probability (ReCLAP, arXiv 2409.09213, section 3.2: 0.4).
    captions : int
        Captions of a row in one step, all of them positives; fewer where a row has fewer.
    negatives, modules : int
        Hard negatives of a caption, and modules (texts of parts of the scene, further positives),
        in one step; fewer where a caption has fewer. A mixture has some of its own: its caption
        with the other connective or order, and the captions of its parts. Only their own clip
        sees them (CompA, arXiv 2310.08753).
    errors : {"raise", "skip"}
        Effect of an unreadable sound: it ends the run, or is replaced by the next readable row of
        its group, and reported once. Evaluation leaves it out.
    threads : int
        Threads of the prefetcher, which decode and transform.
    ahead : int
        Number of batches to prefetch.
    cache_mb : int
        Size of the spectrogram cache in memory, in units of 2**20 bytes.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> Data("train.jsonl", batch=64, ahead=2).original
    0.4
    """

    manifest: str
    root: str = ""
    where: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    batch: Positive = 32
    mixtures: Count = 0
    group: str = ""
    per_group: Count = 0
    original: Probability = 0.4
    captions: Positive = 1
    negatives: Count = 0
    modules: Count = 0
    errors: Errors = "raise"
    threads: Positive = 2
    ahead: Positive = 4
    cache_mb: Count = 1024

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.mixtures > self.batch:
            raise ValueError(f"mixtures is {self.mixtures}, of a batch of {self.batch}")
        if self.per_group and not self.group:
            raise ValueError("per_group: needs group, the column that says what sounds alike")


@dataclasses.dataclass(frozen=True)
class Optim(Settings):
    """Section ``[optim]``: AdamW or Adam, schedule with warm-up, EMA.

    Parameters
    ----------
    lr : float
        Peak learning rate. Rises over `warmup` steps, ``lr (step + 1) / warmup``, then follows
        `schedule`.
    warmup : int
        Steps of the warm-up.
    schedule : {"cosine", "linear", "constant"}
        After the warm-up: falls to zero with a half cosine, or in a line; or stays.
    algorithm : {"adamw", "adam"}
        Decoupled weight decay (Loshchilov and Hutter 2019), or Adam (Kingma and Ba 2015), which
        adds the decay to the gradient, as ``torch.optim.Adam``; without decay they are equal.
    beta1, beta2, eps : float
        Parameters of the optimizer.
    weight_decay : float
        Weight decay of matrices and tables; biases, norms and the temperature have none.
    clip : float
        Gradient clipping: largest norm of the whole gradient; 0: none.
    ema : float
        Decay of the exponential moving average (EMA) of the weights, with a warm-up:
        ``min(ema, (1 + step) / (10 + step))``. The EMA weights are then those that are saved and
        evaluated. 0: no EMA.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> Optim(lr=5e-4, warmup=100, ema=0.999).clip
    0.0
    """

    lr: NotNegative = 1e-4
    warmup: Count = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    algorithm: Literal["adamw", "adam"] = "adamw"
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: NotNegative = 1e-8
    weight_decay: NotNegative = 0.0
    clip: NotNegative = 0.0
    ema: Fraction = 0.0


@dataclasses.dataclass(frozen=True)
class Train(Settings):
    """Section ``[train]``: what is trained, and how fast.

    Parameters
    ----------
    text : {"frozen", "trained"}
        A frozen text tower gives features of captions, which are computed once and kept in the
        run folder; a trained one learns with the rest.
    freeze : list of str
        Patterns of names of parameters that stay as they are: ``"audio_branch.layers.0.*"``, or
        the beginning of names, ``"audio_branch"``. A tower all of which is frozen runs as at
        inference, with running statistics and without random draws.
    rates, decays : dict of str to float
        Patterns to factors of the learning rate and of the weight decay.
    layer_decay : float
        Factor of the learning rate of each block of a tower relative to the one above it; heads
        have the whole rate. 1: all alike.
    text_dropout : float
        Dropout of the text tower's embedding and of both branches of its blocks.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> Train(text="trained", rates={"text_branch": 0.1}, layer_decay=0.75).freeze
    []
    """

    text: Literal["frozen", "trained"] = "frozen"
    freeze: list[str] = dataclasses.field(default_factory=list)
    rates: dict[str, NotNegative] = dataclasses.field(default_factory=dict)
    decays: dict[str, NotNegative] = dataclasses.field(default_factory=dict)
    layer_decay: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    text_dropout: Fraction = 0.0

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.text_dropout and self.text == "frozen":
            raise ValueError("text_dropout: the text tower is frozen; it needs text = 'trained'")


@dataclasses.dataclass(frozen=True)
class Loss(Settings):
    """Section ``[loss]``: the loss of a batch of clips and texts.

    Parameters
    ----------
    kind : {"contrastive", "sigmoid"}
        Symmetric InfoNCE, with several positives and hard negatives where rows have some; or
        SigLIP's loss of each pair by itself (Zhai et al. 2023).
    scale : float
        Logits are cosines times a learned scale, which begins with this. 0: that of the model to
        continue from, with its bias, if it was trained by the same kind of loss; else 1 / 0.07
        (CLIP, LAION-CLAP), or 10 for the sigmoid loss (SigLIP, open_clip).
    bias : float
        Where the learned bias of logits begins; of the sigmoid loss alone.
    teacher : str
        A model to learn from, anything that `reclap.load` takes: its softmax over the texts and
        clips of a batch is a further target (open_clip's DistillClipLoss). Its embeddings of whole
        sounds and of texts are computed once. Empty: none.
    distillation : float
        Weight of the teacher's loss beside the other.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> Loss(kind="sigmoid").initial_scale
    10.0
    """

    kind: Literal["contrastive", "sigmoid"] = "contrastive"
    scale: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    bias: Annotated[float, msgspec.Meta(ge=-1000, le=1000)] = -10.0
    teacher: str = ""
    distillation: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0

    @property
    def initial_scale(self) -> float:
        """The scale that logits begin with."""
        usual = 10.0 if self.kind == "sigmoid" else 1 / 0.07
        return self.scale or usual

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if 0 < self.scale < 1:
            raise ValueError(f"scale is {self.scale}, expected 1 to 100, or 0 for the usual one")


@dataclasses.dataclass(frozen=True)
class Run(Settings):
    """Section ``[run]``: length, seed, checkpoints, threads.

    Parameters
    ----------
    steps : int
        Length of the run, and of the schedule.
    seed : int
        Seed of all random draws, below ``2 ** 64``.
    save_every : int
        Steps between checkpoints; the last step is always saved.
    save_first : bool
        Save a checkpoint, and evaluate, before the first step.
    keep : int
        Number of checkpoints to keep; older ones are removed.
    tensorboard : bool
        Write TensorBoard events, too, into a folder ``tensorboard`` of the run (extra:
        tensorboard).
    piece : int
        Clips of a batch that go through the towers at a time: embeddings of all pieces first, then
        the loss over all, then each piece once more and back (GradCache, Gao et al. 2021). Draws
        and the statistics of the input norm are those of the whole batch, so the gradients are,
        too; deeper batch norms, those of fusion and of Cnn14, see their piece. 0: as many as fit
        into the memory that is free.
    checkpointing : bool
        Gradient checkpointing (Chen et al. 2016): of each block only the input is kept, and the
        rest computed once more on the way back. The bits of a run are the same; activations take a
        fraction of the memory, a step about a quarter more time.
    threads : int
        Threads of the core; 0: all processors. Products through oneDNN are the same bit for bit
        only for the same number.
    precision : {"float32", "bfloat16"}
        Type of both factors of the products of towers. Weights, sums, gradients of weights, moments
        and all between products are float32 (mixed precision: Micikevicius et al. 2018). bfloat16
        needs instructions for it (AMX or AVX-512 bf16).

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> Run(steps=1000).save_every
    1000
    """

    steps: Positive
    seed: Count = 0
    save_every: Positive = 1000
    save_first: bool = False
    keep: Positive = 2
    tensorboard: bool = False
    piece: Count = 0
    checkpointing: bool = False
    threads: Count = 0
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.seed >= 2**64:
            raise ValueError(f"seed is {self.seed}, expected below 2 ** 64")


@dataclasses.dataclass(frozen=True)
class Eval(Settings):
    """Section ``[eval]``: evaluation during training, best checkpoint, early stopping.

    Parameters
    ----------
    every : int
        Steps between evaluations, the first one before the first step; 0: none.
    manifest : str
        See `reclap.io.manifest.read`; the training manifest if empty.
    where : dict of str to list
        Filter of its rows: column names to allowed values.
    label : str
        Column of the true label, for zero-shot accuracy. Empty: none.
    prompts : dict
        A text or list of texts for each label; the model's template where absent.
    captions : bool
        Evaluate by captions, too: loss, and retrieval in both directions.
    best : {"", "accuracy", "loss", "retrieval"}
        Keep a link ``best`` to the checkpoint whose evaluation is the best by this; retrieval is
        the mean of mAP@10 of both directions.
    patience : int
        Stop after so many evaluations in a row that are not better than the best one; 0: never.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> Eval(every=100, label="category").prompts
    {}
    """

    every: Count = 0
    manifest: str = ""
    where: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    label: str = "label"
    prompts: dict[str, Any] = dataclasses.field(default_factory=dict)
    captions: bool = False
    best: Literal["", "accuracy", "loss", "retrieval"] = ""
    patience: Count = 0

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.every and not (self.label or self.captions):
            raise ValueError("label: empty, and captions is false: there is nothing to evaluate by")
        if self.prompts and not self.label:
            raise ValueError("prompts: needs label, the column that says which are right")
        if self.best and not self.every:
            raise ValueError(f"best is {self.best!r}: needs every, the steps between evaluations")
        if self.best == "accuracy" and not self.label:
            raise ValueError("best is 'accuracy': needs label, the column of the true label")
        if self.best in ("loss", "retrieval") and not self.captions:
            raise ValueError(f"best is {self.best!r}: needs captions = true")
        if self.patience and not self.best:
            raise ValueError("patience: needs best, by which evaluations are compared")
        for label, texts in self.prompts.items():
            several = [texts] if isinstance(texts, str) else texts
            if not isinstance(several, list) or not several:
                raise ValueError(f"prompts.{label}: expected a text or a list of texts")
            if not all(isinstance(t, str) and t.strip() for t in several):
                raise ValueError(f"prompts.{label}: expected texts that are not empty")
