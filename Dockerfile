# The service on a CPU. Build the wheel first: python -m pip wheel --no-deps --wheel-dir dist .
FROM python:3.12-slim AS build

WORKDIR /tmp/build
COPY constraints.txt ./
COPY dist/clearcap-*.whl ./
# versions are those that the tests pass with; captioning needs no torch, and the image neither pip, bytecode nor tests
RUN python -m venv --without-pip /opt/clearcap \
    && pip --python /opt/clearcap/bin/python install --no-cache-dir --no-compile --constraint constraints.txt \
        "$(ls ./clearcap-*.whl)[serve]" \
    && find /opt/clearcap -depth -type d -name tests -exec rm -r {} +

FROM python:3.12-slim

COPY --from=build /opt/clearcap /opt/clearcap
RUN useradd --system --uid 10001 --create-home clearcap
WORKDIR /home/clearcap
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["/opt/clearcap/bin/clearcap", "serve", "--host", "0.0.0.0"]
