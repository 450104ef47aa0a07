"""The referee (is an answer true?), the cross-check, and the doctor, which checks the installation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
