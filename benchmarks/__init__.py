"""Speed, measured: plain and fast form in turn in one run, so that a noisy machine is noisy for both."""
