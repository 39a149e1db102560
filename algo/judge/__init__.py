"""From a group of rollouts to scores on disk, whatever the method.

`engine.Engine` judges groups under one `method.Method`; the journal, the quality gate and the
counters are here, rubrics and grades are not.
"""
