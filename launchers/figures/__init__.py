"""The paper's figures of any campaign: for print, to look at, and as numbers."""
