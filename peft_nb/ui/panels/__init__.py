"""Widgets over what calls do: one module a panel, each around pure functions of :mod:`peft_nb.ui`.

Here is registered which panel or page shows which result; nothing of it is imported before one is shown.
"""

from peft_nb.system.display import PAGES, PANELS

PANELS |= {
    "peft_nb.runs.run.Run": "peft_nb.ui.panels.run:RunPanel",
    "peft_nb.ui.chat.Chat": "peft_nb.ui.panels.chat:ChatPanel",
    "peft_nb.ui.compare.Comparison": "peft_nb.ui.panels.compare:ComparePanel",
    "peft_nb.ui.index.Index": "peft_nb.ui.panels.index:IndexPanel",
    "peft_nb.ui.label.Labels": "peft_nb.ui.panels.label:LabelPanel",
    "peft_nb.ui.report.Report": "peft_nb.ui.panels.data:DataPanel",
    "peft_nb.ui.router.Router": "peft_nb.ui.panels.router:RouterPanel",
    "peft_nb.ui.serve.Serving": "peft_nb.ui.panels.serve:ServePanel",
    "peft_nb.ui.sweep.Sweep": "peft_nb.ui.panels.sweep:SweepPanel",
    "peft_nb.ui.transcription.Transcription": "peft_nb.ui.panels.transcription:TranscriptionPanel",
    "peft_nb.ui.trial.Trial": "peft_nb.ui.panels.trial:TrialPanel",
    "peft_nb.ui.runs.Runs": "peft_nb.ui.panels.runs:panel_of_default_store",
}

PAGES |= {
    "peft_nb.runs.explain.Explanation": "peft_nb.ui.explain:page",
    "peft_nb.runs.probe.Probe": "peft_nb.ui.probe:page",
}
