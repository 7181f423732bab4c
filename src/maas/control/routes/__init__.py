"""The routes of control, one file per noun; they translate and decide nothing."""
