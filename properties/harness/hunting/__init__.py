"""The hunt: any source of cases, run in parallel until time is up, each difference made small."""
