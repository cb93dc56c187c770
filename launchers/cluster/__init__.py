"""FireWorks on a cluster: settings, LaunchPad, queue jobs, workers, and jobs that were lost."""
