"""Write the generated files of the documentation."""

from docs.generator import generated_files
from tinyscene.deploy.common.files import write_whole

for path, text in generated_files().items():
    write_whole(path, text)
