"""Widgets over what calls do: one module a panel, each around pure functions of :mod:`peft_nb.ui`."""
