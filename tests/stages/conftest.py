from judged import *  # noqa: F403
