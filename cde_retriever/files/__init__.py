"""Write, lock and hash files so that a killed process leaves the old state or the new one."""
