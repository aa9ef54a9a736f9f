"""The public names with their types: what `kat/__init__.py` loads on first use, a type checker reads here."""

from kat.data.openings import opening_id as opening_id
from kat.data.openings import unique_prefixes as unique_prefixes
from kat.data.pairs import read_pairs as read_pairs
from kat.data.prefix_file import open_prefixes as open_prefixes
from kat.density.estimators import estimate_density as estimate_density
from kat.density.storage import load_density_mapping as load_density_mapping
from kat.density.weights import Weights as Weights
from kat.density.weights import weigh as weigh
from kat.embedding.encoder import Encoder as Encoder
from kat.embedding.encoder import encode as encode
from kat.errors import KatError as KatError
from kat.evaluation.evaluate import compare as compare
from kat.evaluation.evaluate import evaluate as evaluate
from kat.evaluation.pairs import EvalPairs as EvalPairs
from kat.models.load import load_model as load_model
from kat.neighbors.find import find_neighbors as find_neighbors
from kat.pair_weights.storage import PairWeights as PairWeights
from kat.pair_weights.storage import read_pair_weights as read_pair_weights
from kat.pair_weights.weigh import weigh_pairs as weigh_pairs
from kat.pipeline import WeighedPairs as WeighedPairs
from kat.pipeline import run as run
from kat.records import Density as Density
from kat.records import Embeddings as Embeddings
from kat.records import Neighbors as Neighbors
from kat.records import Pair as Pair
from kat.records import Prefix as Prefix
from kat.training.train import train_reward_model as train_reward_model

__all__: list[str]
__version__: str
