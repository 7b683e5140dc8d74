"""What attention costs on this device, and which way is the fastest."""
