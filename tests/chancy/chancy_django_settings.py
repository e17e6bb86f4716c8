"""Settings of Django, which the workers' set-up is to find."""

SECRET_KEY = "none"
TIME_ZONE = "Antarctica/Troll"
USE_TZ = True
