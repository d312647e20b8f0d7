from nemo_like.sequence_processing import *  # noqa: F403  # the name that scripts import it by
