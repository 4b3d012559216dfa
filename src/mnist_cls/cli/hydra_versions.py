"""Arguments and functions that differ between Hydra 1.3 and Hydra 1.4, which Python 3.14 needs."""

from typing import Any

import hydra
import hydra.utils
from omegaconf import OmegaConf

# Arguments of `hydra.main`, `hydra.initialize_config_dir` and `hydra.utils.instantiate`.
MAIN: dict[str, Any]
INITIALIZE: dict[str, Any]
INSTANTIATE: dict[str, Any]

register_resolver: Any

if hydra.__version__.startswith("1.3."):
    MAIN = INITIALIZE = {"version_base": "1.3"}  # without it, Hydra behaves like 1.1
    INSTANTIATE = {}
    register_resolver = OmegaConf.register_new_resolver
else:
    utils: Any = hydra.utils
    # A `_target_` may name any class, because configs and overrides are the user's own code.
    MAIN = {"execution_whitelist": utils.UNSAFE_DISABLE_EXECUTION_CHECKS}
    INITIALIZE = {}
    INSTANTIATE = {"_execution_whitelist_": utils.UNSAFE_DISABLE_EXECUTION_CHECKS}
    register_resolver = OmegaConf.register_resolver  # OmegaConf 2.3 has another function of this name
