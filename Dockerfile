FROM python:3.11-slim
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The folders are made here so that a volume mounted on them belongs to the user, too.
RUN useradd --system --uid 10001 lineman && install -d -o lineman data logs
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
USER lineman
CMD ["python", "-m", "tasks", "--help"]
