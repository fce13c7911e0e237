"""Teachers: networks too large for a device, whose answers train those that are not."""
