"""The paper's table at our size: contextual batching times contextual architecture, and the three layouts."""
