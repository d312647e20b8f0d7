from nemo_like.datasets import *  # noqa: F403  # the name that scripts import it by
