"""Models behind an OpenAI-compatible endpoint, as answerer, critic or judge: vLLM, llama.cpp, Ollama, hosted ones.

`spec` says what a user may set, `model` is the face, `docs/remote.md` the guide. Only here is httpx imported.
"""
