"""The teacher's text, offline: the index of its answers, its builders, and its care.

`teacher_index.TeacherIndex` is what training reads; `build` and its siblings fill it.
"""
