"""What several studies measure with: tasks, recall, rank association, intervals, peers of the audit, rivals."""
