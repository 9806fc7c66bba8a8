"""The paper's ablation tables on any dataset: the rows, their trainings, and the tables with intervals."""
