"""What a device runs: the front end, the exported model and its runners. numpy only; never imports torch."""
