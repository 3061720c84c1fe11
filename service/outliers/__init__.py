"""The outliers of late: kept, listed, sent to who wants to know, and judged by people."""
