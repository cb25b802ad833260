"""The teacher behind SGLang servers: asks for log-probs of given tokens, and proves that the answers mean something."""
